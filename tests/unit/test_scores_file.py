"""Scores come back from the disk as they were; anything else is one line."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from ptl_plugins import durable, scores_file, tensor_file
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.scores_file import digest, read_scores, write_scores
from ptl_plugins.types import Scores

FACTS = {"num_layers": "2", "width": "3", "num_tokens": "7", "num_sequences": "4"}


def scores_of(seed=0, *, num_layers=2, width=3, protect=None):
    rng = np.random.default_rng(seed)
    return Scores(
        statistics={
            "neuron_abs_max": rng.random((num_layers, width), np.float32),
            "layer_l2_sum": rng.random(num_layers, np.float32),
        },
        num_layers=num_layers,
        width=width,
        num_tokens=7,
        num_sequences=4,
        protect=protect,
    )


def require_equal(one, other):
    assert one.statistics.keys() == other.statistics.keys()
    for name, values in one.statistics.items():
        assert other.statistics[name].dtype == np.float32
        np.testing.assert_array_equal(values, other.statistics[name], strict=True)
    for fact in scores_file.FACTS:
        assert getattr(one, fact) == getattr(other, fact)
    assert (one.protect is None) is (other.protect is None)
    if one.protect is not None:
        require_equal(one.protect, other.protect)


@pytest.fixture
def refused(tmp_path):
    """Return the one line with which a file is refused, without the file it starts with."""

    def refuse(path):
        with pytest.raises(PruneError) as raised:
            read_scores(path)
        line = str(raised.value)
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        return line.removeprefix(f"{path}: ")

    return refuse


# --- round trip ---


@pytest.mark.parametrize("protect", [None, scores_of(1)])
def test_scores_and_further_facts_come_back(tmp_path, protect):
    about = {"model_digest": "m", "data_digest": "d", "protect_digest": "p"}
    path, scores = tmp_path / "scores.safetensors", scores_of(protect=protect)
    write_scores(path, scores, MappingProxyType(about))
    again, facts = read_scores(path)
    require_equal(scores, again)
    assert facts == about
    assert digest(again) == digest(scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_any_shape_comes_back(tmp_path_factory, num_layers, width, seed, protected):
    sizes = {"num_layers": num_layers, "width": width}
    scores = scores_of(seed, **sizes, protect=scores_of(seed + 1, **sizes) if protected else None)
    path = tmp_path_factory.mktemp("scores") / "x"
    write_scores(path, scores)
    again, about = read_scores(path)
    require_equal(scores, again)
    assert about == {}


def test_the_facts_of_the_two_corpora_are_kept_apart(tmp_path):
    protect = replace(scores_of(1), num_tokens=70, num_sequences=40)
    write_scores(tmp_path / "x", scores_of(protect=protect))
    again, _ = read_scores(tmp_path / "x")
    assert (again.num_tokens, again.num_sequences) == (7, 4)
    assert (again.protect.num_tokens, again.protect.num_sequences) == (70, 40)


def test_a_view_of_another_array_is_written_as_it_looks(tmp_path):
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    scores = replace(scores_of(), statistics={"n": whole[:, 1:3].T})
    write_scores(tmp_path / "x", scores)
    require_equal(scores, read_scores(tmp_path / "x")[0])


def test_facts_cannot_be_overwritten_by_what_is_written_about_them(tmp_path):
    write_scores(tmp_path / "x", scores_of(), {"width": "99"})
    again, about = read_scores(tmp_path / "x")
    assert again.width == 3
    assert about == {}


# --- atomic ---


@pytest.mark.parametrize("where", ["_save", "replace"])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, where):
    path, first = tmp_path / "scores.safetensors", scores_of(1)
    write_scores(path, first)

    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_file, where, fail)
    with pytest.raises(PTLError, match=r"cannot be written \(no space.*\); make room"):
        write_scores(path, scores_of(2))
    require_equal(first, read_scores(path)[0])
    assert list(tmp_path.iterdir()) == [path], "no orphan"


def test_equal_scores_are_equal_bytes_that_the_umask_lets_read(tmp_path):
    about = {f"key{number}": "x" for number in range(20)}
    for name in "abc":
        write_scores(tmp_path / name, scores_of(), about)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_write_left_is_removed(tmp_path):
    left = tmp_path / "x.ptl-tmp"
    left.mkdir()
    (left / ".tmpAbC").write_bytes(b"half")
    write_scores(tmp_path / "x", scores_of())
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "scores.safetensors", []

    def sync(synced):
        seen.append((synced.name, path.exists()))

    monkeypatch.setattr(durable, "_sync", sync)
    write_scores(path, scores_of())
    assert seen == [("scores.safetensors", False), (tmp_path.name, True)]
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]


# --- digest ---


def test_equal_scores_have_one_digest():
    assert digest(scores_of()) == digest(scores_of())
    turned = replace(scores_of(), statistics=dict(reversed(scores_of().statistics.items())))
    assert digest(turned) == digest(scores_of())


def test_a_digest_tells_every_difference():
    one = scores_of(protect=scores_of(1))
    nudged = dict(one.statistics)
    nudged["layer_l2_sum"] = np.nextafter(nudged["layer_l2_sum"], np.float32(9))
    renamed = {f"{name}_": values for name, values in one.statistics.items()}
    others = [
        replace(one, statistics=nudged),
        replace(one, statistics=renamed),
        replace(one, num_tokens=8),
        replace(one, num_sequences=5),
        replace(one, protect=None),
        replace(one, protect=scores_of(2)),
        replace(one, protect=replace(one.protect, num_tokens=8)),
    ]
    assert len({digest(scores) for scores in [one, *others]}) == 1 + len(others)


# --- what is no scores file ---


def test_a_file_that_is_not_there_or_not_a_file_is_refused(tmp_path, refused):
    for path in (tmp_path / "none", tmp_path):
        line = refused(path)
        assert line.startswith("cannot be read as scores (")
        assert line.endswith("; make them with 'ptl profile'")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 200, b'{"num_layers": 2}\n' * 20])
def test_a_file_of_another_kind_is_refused(tmp_path, refused, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    assert refused(path).startswith("cannot be read as scores (")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder / "whole", scores_of(protect=scores_of(1)))
    content = (folder / "whole").read_bytes()
    end = data.draw(st.integers(0, len(content) - 1))
    (folder / "cut").write_bytes(content[:end])
    with pytest.raises(PruneError, match="cut: cannot be read as scores"):
        read_scores(folder / "cut")


def test_a_models_weights_are_refused_before_they_are_read(tmp_path, refused, monkeypatch):
    """numpy has no bfloat16, and the file may be as large as the model."""
    path = tmp_path / "model.safetensors"
    save_torch_file({"w": torch.ones(2, 3, dtype=torch.bfloat16)}, path, {"format": "pt"})
    assert refused(path) == (
        "is no scores file, its metadata has no number 'num_layers'; make one with 'ptl profile'"
    )
    save_torch_file({"w": torch.ones(2, 3, dtype=torch.bfloat16)}, path, FACTS)
    assert refused(path).startswith("cannot be read as scores (")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": None}, "'width'"),
        ({"num_tokens": "many"}, "'num_tokens'"),
        ({"num_layers": "-2"}, "'num_layers'"),
        ({"num_sequences": ""}, "'num_sequences'"),
        ({"protect.width": "3"}, "'protect.num_layers'"),
        ({"protect.num_layers": "2", "protect.width": "x"}, "'protect.width'"),
    ],
)
def test_a_fact_that_is_missing_or_no_number_is_named(tmp_path, refused, changes, told):
    facts = {key: value for key, value in {**FACTS, **changes}.items() if value is not None}
    tensors = {"n": np.ones((2, 3), np.float32)}
    if any(key.startswith("protect.") for key in changes):
        tensors["protect.n"] = np.ones((2, 3), np.float32)
    save_file(tensors, tmp_path / "x", facts)
    assert refused(tmp_path / "x").startswith(
        f"is no scores file, its metadata has no number {told}"
    )


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 4), (2, 3, 1), ()])
@pytest.mark.parametrize("prefix", ["", "protect."])
def test_a_statistic_of_another_shape_is_refused(tmp_path, refused, shape, prefix):
    facts = FACTS | {prefix + key: value for key, value in FACTS.items()}
    tensors = {"n": np.ones((2, 3), np.float32), prefix + "n": np.ones(shape, np.float32)}
    save_file(tensors, tmp_path / "x", facts)
    assert refused(tmp_path / "x") == (
        f"statistic '{prefix}n' has shape {list(shape)}, but the scores are of 2 layers of 3 "
        "neurons; profile again"
    )


def test_a_protect_set_of_another_model_is_refused(tmp_path, refused):
    write_scores(tmp_path / "x", scores_of(protect=scores_of(width=4)))
    assert refused(tmp_path / "x") == (
        "the protect set's scores are of 2 layers of 4 neurons, the others of 2 of 3; profile again"
    )
