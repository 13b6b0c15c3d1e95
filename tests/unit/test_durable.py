"""Files and folders appear whole or not at all."""

import json
import os

import pytest

from ptl_plugins import durable
from ptl_plugins.durable import (
    TEMPORARY_SUFFIX,
    copy_files,
    digest_of_files,
    new_folder,
    remove_leftovers,
    write_json,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def full(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(durable, "_sync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_cannot_be_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "x", []
    sync, rename = durable._sync, os.replace

    def spy_sync(target):
        order.append(("sync", target.name))
        sync(target)

    def spy_rename(old, new):
        order.append(("rename", new.name))
        rename(old, new)

    monkeypatch.setattr(durable, "_sync", spy_sync)
    monkeypatch.setattr(durable.os, "replace", spy_rename)
    write_text(path, "text")
    assert order == [("sync", "x" + TEMPORARY_SUFFIX), ("rename", "x"), ("sync", tmp_path.name)]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"

    def fill(text, fail=False):
        with new_folder(path) as temporary:
            (temporary / "a").write_text(text, encoding="utf-8")
            assert temporary != path
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("never", fail=True)
    assert list(tmp_path.iterdir()) == []
    fill("one")
    with pytest.raises(KeyboardInterrupt):
        fill("two", fail=True)
    assert (path / "a").read_text(encoding="utf-8") == "one"
    fill("three")
    assert (path / "a").read_text(encoding="utf-8") == "three"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_are_copied_beside_what_is_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "inner").mkdir()
    for folder, name, text in ((source, "a", "new"), (target, "a", "old"), (target, "b", "kept")):
        (folder / name).write_text(text, encoding="utf-8")
    copy_files(source, target)
    assert {p.name: p.read_text(encoding="utf-8") for p in target.iterdir()} == {
        "a": "new",
        "b": "kept",
    }


def test_a_digest_changes_with_names_and_contents_of_the_matching_files_alone(tmp_path):
    (tmp_path / "a.safetensors").write_text("x", encoding="utf-8")
    first = digest_of_files(tmp_path, "*.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert digest_of_files(tmp_path, "*.safetensors") == first
    (tmp_path / "a.safetensors").write_text("y", encoding="utf-8")
    second = digest_of_files(tmp_path, "*.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert len({first, second, digest_of_files(tmp_path, "*.safetensors")}) == 3
