"""Files of second moments: what they say of themselves, and which are refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ptl_plugins import tensor_file
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.second_moments import MomentFolder

from .conftest import run

ABOUT = {"model_digest": "a" * 64, "data_digest": "b" * 64}


def fails(action, *parts):
    with pytest.raises(PruneError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
    return True


def test_a_missing_file_is_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    assert not folder.has(3)
    assert fails(
        lambda: folder.read(3, 48), "layer_003.safetensors", "ptl profile --second-moments"
    )


@pytest.mark.parametrize("key", list(ABOUT))
def test_a_file_of_another_model_or_other_data_is_refused(tmp_path, key):
    run(MomentFolder(path=tmp_path, about=ABOUT))
    other = MomentFolder(path=tmp_path, about={**ABOUT, key: "c" * 64})
    parts = (f"another {key.removesuffix('_digest')}", ABOUT[key][:12], "cccccccccccc")
    assert fails(lambda: other.read(0, 48), *parts)
    assert fails(lambda: other.has(0), *parts)
    assert fails(lambda: run(other), *parts), "a profile does not take it for its own"
    assert MomentFolder(path=tmp_path, about={key: ABOUT[key]}).has(0)
    assert fails(lambda: run(MomentFolder(path=tmp_path, about={"more": "x"})), "more None, not x")


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x08\0\0\0\0\0\0\0{}      ###"])
def test_a_damaged_file_is_refused(tmp_path, content):
    folder = MomentFolder(path=tmp_path)
    folder.file(0).write_bytes(content)
    for action in (lambda: folder.read(0, 48), lambda: folder.has(0), lambda: run(folder)):
        assert fails(action, "layer_000.safetensors", "remove it")


def test_a_file_cut_off_is_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    folder.write({"0": torch.eye(48)}, SingleProcess())
    folder.file(0).write_bytes(folder.file(0).read_bytes()[:-100])
    assert fails(lambda: folder.require(0), "cannot be read as a second moment")


def test_other_tensors_are_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    save_file({"weight": torch.eye(48)}, folder.file(0))
    assert fails(lambda: folder.read(0, 48), "holds no 'second_moment'")


def test_another_width_is_refused(tmp_path):
    run(tmp_path)
    assert fails(lambda: MomentFolder(path=tmp_path).read(0, 46), "of width 48", "have 46")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    moment = torch.eye(48)
    moment[3, 4] = value
    folder = MomentFolder(path=tmp_path)
    folder.write({"2": moment}, SingleProcess())
    assert fails(lambda: folder.read(2, 48), "layer_002", "not finite")


def test_the_metadata_of_a_file_say_what_it_was_made_from(tmp_path):
    run(MomentFolder(path=tmp_path, about=ABOUT))
    header = (tmp_path / "layer_000.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"] == {
        "ptl": json.dumps(ABOUT, sort_keys=True)
    }


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*words):
        raise SafetensorError("I/O error: full")

    monkeypatch.setattr(tensor_file, "_save", full)
    told = r"layer_000.safetensors: cannot be written \(I/O error: full\); make room"
    with pytest.raises(PTLError, match=told):
        run(MomentFolder(path=tmp_path, about=ABOUT))
    assert list(tmp_path.iterdir()) == []
