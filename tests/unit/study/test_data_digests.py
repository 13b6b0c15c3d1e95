"""What a run reads has a fingerprint: files that a recipe names, its datasets, its original."""

from __future__ import annotations

import hashlib
import json

import pytest

from ptl_plugins.study.data_digests import data_digests
from ptl_plugins.testing import write_tiny_checkpoint


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "held_out"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(name)
    entries = {name: {"file_name": f"{name}.jsonl"} for name in ("a", "b")}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(entries))
    return tmp_path


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_files_are_found_however_deep_a_recipe_names_them(place):
    tasks = [{"evaluator": "chain_of_thought", "data": "data/held_out.jsonl"}, {"data": "gone"}]
    keys = {"data": {"path": "data/a.jsonl"}, "evaluate": {"tasks": tasks}, "model": "org/name"}
    found = data_digests(keys, "run")
    assert found == {
        "data/a.jsonl": digest("a"),
        "data/held_out.jsonl": digest("held_out"),
    }


def test_datasets_of_a_yaml_are_its_files(place):
    keys = {"dataset_dir": "data", "dataset": "a, b, other", "ptl": {}}
    found = data_digests(keys, "llamafactory")
    assert found == {"data/a.jsonl": digest("a"), "data/b.jsonl": digest("b")}


def test_the_original_has_the_digest_of_its_weights(place):
    write_tiny_checkpoint(place / "model")
    key = "model_name_or_path"
    first = data_digests({key: "model"}, "llamafactory")["model"]
    assert data_digests({"model": "model"}, "run")["model"] == first
    write_tiny_checkpoint(place / "model", hidden_size=64)
    assert data_digests({key: "model"}, "llamafactory")["model"] != first


def test_an_original_that_is_none_is_left_to_the_run(place):
    assert data_digests({"model": "data"}, "run") == {}
