"""What `ptl profile` refuses before any work: one line, and nothing is written."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from ptl_plugins import profile_run, text_data
from ptl_plugins.errors import PTLError


def test_without_anything_to_write_to_nothing_is_loaded(go, tmp_path, no_model, monkeypatch):
    no_model()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(PTLError, match=r"--out: the folder .*file cannot be made \(.*\); name an"):
        go(out=tmp_path / "file" / "scores")
    with pytest.raises(PTLError, match=r"--second-moments: the folder .*file cannot be made"):
        go(second_moments=tmp_path / "file")
    monkeypatch.setattr(profile_run.os, "access", lambda *_: False)
    with pytest.raises(PTLError, match=r"--out: the folder .* cannot be written to; name another"):
        go()


def test_second_moments_that_do_not_fit_the_disk_are_refused_beforehand(
    go, tmp_path, no_model, monkeypatch
):
    needed, no_room = 5 * 4 * 48 * 48, SimpleNamespace(free=5 * 4 * 48 * 48 - 1)
    no_model()
    monkeypatch.setattr(profile_run.shutil, "disk_usage", lambda folder: no_room)
    with pytest.raises(PTLError, match=rf"need {needed} bytes, {needed - 1} are free; make room"):
        go(second_moments=tmp_path / "moments")


def test_texts_without_a_token_are_refused(go, no_model, monkeypatch, tmp_path):
    no_model()
    monkeypatch.setattr(text_data, "encode_texts", lambda texts, *_, **__: [[] for _ in texts])
    with pytest.raises(PTLError, match="makes no token of its texts; give other data"):
        go(out=tmp_path / "new" / "scores")
    assert list(tmp_path.iterdir()) == []


def test_a_protect_corpus_without_a_column_text_is_named(go, tmp_path, no_model, data):
    no_model()
    path = tmp_path / "other.jsonl"
    path.write_text('{"content": "x"}\n', encoding="utf-8")
    told = (
        r"^--protect \(whose column has to be 'text'\): data '.*': has no column 'text'; it has con"
    )
    with pytest.raises(PTLError, match=told):
        go(protect=str(path))


def test_a_tokenizer_that_cannot_be_loaded_is_the_users_to_mend(go, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(PTLError, match=r"its tokenizer cannot be loaded \(\w+: ") as raised:
        go(model=str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"intermediate_size": None}, "intermediate_size: None is not a positive whole number"),
    ],
)
def test_a_model_that_cannot_be_pruned_is_not_profiled(
    go, checkpoint, tmp_path, no_model, change, told
):
    no_model()
    folder = shutil.copytree(checkpoint(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(PTLError, match=told):
        go(model=str(folder), out=tmp_path / "new" / "scores")
    assert not (tmp_path / "new").exists()


def test_ranks_that_see_another_model_are_a_fault(go):
    ranks = SimpleNamespace(rank=0, size=2, gather=lambda value: [value, "another"])
    with pytest.raises(AssertionError, match="ranks disagree on model and data"):
        go(ranks=ranks)
