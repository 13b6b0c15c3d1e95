"""Checkpoint folders: what is read of them, and every way in which one can be broken."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.shards import INDEX_FILE, open_checkpoint
from ptl_plugins.testing import tiny_model, tiny_tokenizer

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)
ONE = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}


@pytest.fixture
def folder(tmp_path):
    """A folder with a config and no weights yet."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def sharded(folder):
    """Two files and their index."""
    save_file({"a": A}, folder / "m-1.safetensors", {"format": "pt"})
    save_file({"b": B}, folder / "m-2.safetensors")
    write_index(folder, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map, **metadata) -> None:
    text = json.dumps({"metadata": metadata, "weight_map": weight_map})
    (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def write_raw(path: Path, header, num_bytes: int) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(num_bytes))


def refusal(folder: Path) -> str:
    """Return the one line with which the folder is refused."""
    with pytest.raises(PruneError) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_single_file_gives_every_tensor_with_its_place_in_the_file(folder):
    save_file({"a": A, "b": B}, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(folder)
    raw = (folder / "model.safetensors").read_bytes()
    assert checkpoint.index is None
    assert checkpoint.files == ("model.safetensors",)
    assert checkpoint.file_metadata == {"model.safetensors": {"format": "pt"}}
    assert checkpoint.config == {"model_type": "llama"}
    for name, array, dtype in (("a", A, "F32"), ("b", B, "F16")):
        entry = checkpoint.tensors[name]
        assert (entry.name, entry.dtype, entry.shape) == (name, dtype, array.shape)
        assert raw[entry.start : entry.end] == array.tobytes()


def test_shards_come_in_order_with_their_own_metadata(sharded):
    write_index(sharded, {"b": "m-2.safetensors", "a": "m-1.safetensors"}, total_size=32)
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.files == ("m-1.safetensors", "m-2.safetensors")
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.file_metadata == {
        "m-1.safetensors": {"format": "pt"},
        "m-2.safetensors": None,
    }
    assert checkpoint.index is not None
    assert checkpoint.index.metadata == {"total_size": 32}


def test_tensors_are_listed_by_their_bytes_not_by_the_headers_order(folder):
    header = {
        "late": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
        "early": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    write_raw(folder / "model.safetensors", header, 3)
    assert list(open_checkpoint(folder).tensors) == ["early", "late"]


def test_a_single_file_goes_before_an_index_as_in_transformers(sharded):
    save_file({"c": A}, sharded / "model.safetensors")
    assert list(open_checkpoint(sharded).tensors) == ["c"]


def test_files_may_be_links_out_of_the_folder_as_in_the_hub_cache(sharded, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, name in enumerate(("m-1.safetensors", "m-2.safetensors")):
        (sharded / name).rename(blobs / str(number))
        (sharded / name).symlink_to(Path("blobs") / str(number))
    assert list(open_checkpoint(sharded).tensors) == ["a", "b"]


def test_a_tensor_that_the_index_forgets_is_kept(sharded):
    save_file({"a": A, "forgotten": B}, sharded / "m-1.safetensors")
    assert isinstance(open_checkpoint(sharded).tensors["forgotten"], TensorEntry)


@pytest.mark.parametrize(
    ("header", "num_bytes", "words"),
    [
        (ONE, 2, "it has 72 bytes of 74"),
        (ONE, 6, "not fully covered"),
        (b'{"a":', 4, "invalid JSON"),
        (b"[]", 0, "invalid type: sequence"),
        (b'{"a": 1}', 0, "invalid type"),
        (b"[" * 5000, 0, "invalid JSON"),
        ({"a": {**ONE["a"], "shape": [3]}}, 4, "invalid shape"),
        ({"a": {**ONE["a"], "shape": [-2]}}, 4, "expected usize"),
        ({"a": {**ONE["a"], "dtype": "BF17"}}, 4, "unknown variant `BF17`"),
        ({"a": {**ONE["a"], "data_offsets": [4, 8]}}, 8, "invalid offset"),
        ({**ONE, "b": {**ONE["a"], "data_offsets": [2, 6]}}, 6, "invalid offset"),
        ({**ONE, "b": {**ONE["a"], "data_offsets": [6, 10]}}, 10, "invalid offset"),
    ],
)
def test_a_broken_file_is_refused_by_name(folder, header, num_bytes, words):
    write_raw(folder / "model.safetensors", header, num_bytes)
    line = refusal(folder)
    assert str(folder / "model.safetensors") in line
    assert words in line
    assert "download or copy it again" in line


@pytest.mark.parametrize("raw", [b"", b"abc", (2**60).to_bytes(8, "little") + b"{}"])
def test_a_file_without_a_sensible_header_is_refused_without_reading_that_much(folder, raw):
    (folder / "model.safetensors").write_bytes(raw)
    assert "header too" in refusal(folder)


def test_a_file_that_cannot_be_opened_is_refused(folder, monkeypatch):
    save_file({"a": A}, folder / "model.safetensors")

    def denied(*args, **keys):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ptl_plugins.shard_header._validate", denied)
    assert "model.safetensors: cannot be read (Permission denied)" in refusal(folder)


def test_a_quantised_dtype_is_refused(folder):
    header = {"q": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    write_raw(folder / "model.safetensors", header, 4)
    line = refusal(folder)
    assert "tensor 'q' has dtype F8_E4M3" in line
    assert "BF16" in line
    assert "full-precision" in line


def test_a_quantised_config_is_refused(sharded):
    config = {"quantization_config": {"quant_method": "gptq"}}
    (sharded / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "config.json: quantization_config" in refusal(sharded)


@pytest.mark.parametrize(
    "file",
    ["../m-1.safetensors", "/etc/m.safetensors", "sub/m.safetensors", "a\\b.safetensors",
     "..", "config.json", 3, None],
)  # fmt: skip
def test_an_index_that_names_no_file_of_the_folder_is_refused(sharded, file):
    save_file({"b": B}, sharded.parent / "m-1.safetensors")
    write_index(sharded, {"a": "m-1.safetensors", "b": file})
    line = refusal(sharded)
    assert f"{INDEX_FILE}: weight_map: 'b': {file!r} is not the name" in line


def test_an_index_that_names_a_missing_file_is_refused(sharded):
    (sharded / "m-2.safetensors").unlink()
    assert "weight_map: 'b': m-2.safetensors is not in the folder" in refusal(sharded)


def test_an_index_with_a_tensor_that_its_file_lacks_is_refused(sharded):
    write_index(sharded, {"a": "m-1.safetensors", "b": "m-1.safetensors"})
    assert "'b' shall be in m-1.safetensors, but is not" in refusal(sharded)


def test_a_tensor_in_two_files_is_refused(sharded):
    save_file({"a": A, "b": B}, sharded / "m-2.safetensors")
    assert "tensor 'a' is in m-1.safetensors and in m-2.safetensors" in refusal(sharded)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(sharded, text):
    (sharded / INDEX_FILE).write_text(text, encoding="utf-8")
    assert INDEX_FILE in refusal(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder, name):
    (folder / name).write_bytes(b"")
    line = refusal(folder)
    assert name in line
    assert "only safetensors can be pruned" in line
    assert "python -c" in line


def test_the_command_that_converts_pickled_weights_works(folder):
    import torch

    model = tiny_model("llama", hidden_size=8, vocab_size=16, num_hidden_layers=1)
    model.config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    command = shlex.split(re.search(r"python -c .*", refusal(folder)).group())
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    converted = open_checkpoint(Path(f"{folder}-safetensors"))
    assert "model.layers.0.mlp.gate_proj.weight" in converted.tensors
    assert (converted.folder / "tokenizer.json").is_file()
    assert "copy other side files" in refusal(folder)


def test_a_folder_without_weights_and_a_missing_folder_are_refused(folder):
    assert "has neither model.safetensors nor" in refusal(folder)
    assert "no such folder" in refusal(folder / "missing")
    assert "no such folder" in refusal(Path("owner/name")), "never looked up on the hub"


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    save_file({"a": A}, folder / "model.safetensors")
    with pytest.raises(PTLError, match=r"no config\.json"):
        open_checkpoint(folder)


def test_a_checkpoint_has_a_short_repr(sharded):
    assert repr(open_checkpoint(sharded)) == f"Checkpoint({sharded}, 2 tensors, 2 files)"
