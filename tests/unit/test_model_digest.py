"""The sampled fingerprint of a checkpoint's weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ptl_plugins.model_digest import BLOCK_BYTES, NUM_BLOCKS, model_digest
from ptl_plugins.shards import INDEX_FILE, open_checkpoint

SIZE = 40 * BLOCK_BYTES
TENSORS = {
    "large": np.random.default_rng(0).integers(0, 255, (8, SIZE // 8), dtype=np.uint8),
    "small": np.arange(12, dtype=np.float32).reshape(3, 4),
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def write(folder, tensors, *, shards=False):
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {name: f"m-{i}.safetensors" for i, name in enumerate(reversed(tensors))}
    for name, file in weight_map.items():
        save_file({name: tensors[name]}, folder / file, {"format": "pt"})
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return folder


def digest(folder):
    return model_digest(open_checkpoint(folder))


@pytest.fixture
def original(tmp_path):
    return write(tmp_path / "original", TENSORS)


def test_the_digest_does_not_depend_on_the_files(original, tmp_path):
    assert digest(original) == digest(write(tmp_path / "shards", TENSORS, shards=True))
    assert len(digest(original)) == 64


@pytest.mark.parametrize("at", [0, BLOCK_BYTES - 1, SIZE // 2, SIZE - BLOCK_BYTES, SIZE - 1])
def test_a_byte_in_the_first_last_or_middle_block_changes_it(original, tmp_path, at):
    tensors = {name: array.copy() for name, array in TENSORS.items()}
    tensors["large"].reshape(-1)[at] ^= 1
    assert digest(write(tmp_path / "other", tensors)) != digest(original)


def test_every_byte_of_a_small_tensor_counts(original, tmp_path):
    for i in range(12):
        tensors = {**TENSORS, "small": TENSORS["small"].copy()}
        tensors["small"].reshape(-1)[i] += 1
        assert digest(write(tmp_path / str(i), tensors)) != digest(original)


@pytest.mark.parametrize(
    "change",
    [
        {"small": TENSORS["small"].reshape(4, 3)},
        {"small": TENSORS["small"].view(np.int32)},
        {"more": TENSORS["small"]},
    ],
    ids=["shape", "dtype", "name"],
)
def test_names_dtypes_and_shapes_count(original, tmp_path, change):
    assert digest(write(tmp_path / "other", {**TENSORS, **change})) != digest(original)


def test_only_a_few_blocks_of_each_tensor_are_read(original, monkeypatch):
    read = []
    pread = __import__("os").pread

    def counted(descriptor, length, offset):
        read.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr("os.pread", counted)
    digest(original)
    assert sum(read) <= len(load_file(original / "model.safetensors")) * NUM_BLOCKS * BLOCK_BYTES
