"""A checkpoint whose weights are infinite, not numbers, or not those of its config is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptl_plugins import sound_weights
from ptl_plugins.errors import PruneError
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.sound_weights import require_finite, require_fit, require_sound
from ptl_plugins.testing import TINY, write_tiny_checkpoint

NORM = "model.norm.weight"
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.fixture
def folder(tmp_path):
    return write_tiny_checkpoint(tmp_path / "model")


def put(folder, value, dtype):
    """Write all weights as `dtype`, with `value` at the end of the last norm."""
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    tensors[NORM][-1] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return open_checkpoint(folder)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_number_is_one(folder, dtype):
    require_finite(put(folder, torch.finfo(dtype).max, dtype))
    require_finite(put(folder, -torch.finfo(dtype).max, dtype))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_named(folder, dtype, value):
    with pytest.raises(PruneError, match=f"tensor '{NORM}' is not finite"):
        require_finite(put(folder, value, dtype))


def test_every_block_is_read(folder, monkeypatch):
    monkeypatch.setattr(sound_weights, "BLOCK_BYTES", 8)
    with pytest.raises(PruneError, match="not finite"):
        require_finite(put(folder, torch.nan, torch.bfloat16))


@pytest.mark.parametrize("model_type", TINY)
def test_models_of_every_family_are_sound(tmp_path, model_type):
    require_sound(write_tiny_checkpoint(tmp_path / "model", model_type))


def test_a_model_that_transformers_does_not_know_is_left_to_its_plugin(folder):
    path = folder / "config.json"
    path.write_text(path.read_text("utf-8").replace('"llama"', '"llama_of_mine"'), "utf-8")
    require_fit(open_checkpoint(folder))
