"""Shards of bounded size: the same tensors, an index that fits, names that transformers finds."""

from __future__ import annotations

import dataclasses

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ptl_plugins.shards import INDEX_FILE, SINGLE_FILE, open_checkpoint
from ptl_plugins.slicegpt.sliced_checkpoint import slice_checkpoint


def test_a_large_model_goes_to_several_files_with_the_same_tensors(slice_tiny):
    pair = slice_tiny("qwen2")
    small = dataclasses.replace(
        pair.request, out=pair.folder.with_name("shards"), shard_bytes=40_000
    )
    slice_checkpoint(small)
    files = sorted(small.out.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    assert len(files) > 3
    assert all(file.stat().st_size < 50_000 for file in files)
    assert not (small.out / SINGLE_FILE).exists()
    whole = load_file(pair.folder / SINGLE_FILE)
    parts = {name: t for file in files for name, t in load_file(file).items()}
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    opened = open_checkpoint(small.out)
    assert opened.index.metadata["total_size"] == sum(t.nbytes for t in whole.values())


def test_the_shards_are_loaded_again(slice_tiny):
    pair = slice_tiny("llama")
    small = dataclasses.replace(
        pair.request, out=pair.folder.with_name("shards"), shard_bytes=40_000
    )
    slice_checkpoint(small)
    ids = torch.arange(4, 30)[None]
    model = pair.model
    again = AutoModelForCausalLM.from_pretrained(small.out).eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    assert not (pair.folder / INDEX_FILE).exists()


def test_a_source_in_shards_is_read_one_tensor_at_a_time(slice_tiny, tmp_path):
    pair = slice_tiny("llama")
    pair.dense.save_pretrained(tmp_path / "many", max_shard_size="30KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    again = dataclasses.replace(pair.request, source=tmp_path / "many", out=tmp_path / "from_many")
    slice_checkpoint(again)
    first, second = (load_file(f / SINGLE_FILE) for f in (pair.folder, again.out))
    assert all(torch.equal(first[name], second[name]) for name in first)
