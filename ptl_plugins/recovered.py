"""Takes what a framework trained as the plain checkpoint that it was given.

Frameworks save in their own way: fp32 copies, other shards, a config with marks of the training,
a tokenizer in another form. Only the trained weights are taken, in the dtypes and shards of the
checkpoint that went in; everything else is copied from that.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ptl_plugins.durable import new_folder
from ptl_plugins.errors import DivergedError, StageError
from ptl_plugins.shards import Checkpoint, open_checkpoint


def take_recovered(trained: Path, given: Path, out: Path) -> None:
    """Write the weights in `trained` to `out`, in the form of the checkpoint `given`.

    One shard is in memory at a time.

    Raises:
        StageError: a tensor is missing or of another shape.
        DivergedError: a tensor is not finite.
    """
    result, original = open_checkpoint(trained), open_checkpoint(given)
    with new_folder(out) as folder:
        for file in original.files:
            tensors = {
                name: _trained(result, name, original)
                for name, entry in original.tensors.items()
                if entry.file == file
            }
            metadata = original.file_metadata.get(file)
            save_file(tensors, os.fspath(folder / file), dict(metadata) if metadata else None)
        for path in sorted(given.iterdir()):
            if path.is_file() and not (folder / path.name).exists():
                (folder / path.name).write_bytes(path.read_bytes())


def _trained(result: Checkpoint, name: str, original: Checkpoint) -> torch.Tensor:
    wanted = original.tensors[name]
    if name not in result.tensors:
        raise StageError(f"{result.folder}: the stage's result lacks the tensor '{name}'")
    entry = result.tensors[name]
    if entry.shape != wanted.shape:
        raise StageError(
            f"{result.folder}: the stage changed the shape of '{name}' from {list(wanted.shape)} "
            f"to {list(entry.shape)}; a recovery stage keeps every shape"
        )
    with safe_open(os.fspath(result.folder / entry.file), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    if not bool(tensor.isfinite().all()):
        raise DivergedError(
            f"{result.folder}: '{name}' is not finite: the recovery diverged{_when(result.folder)}"
        )
    return tensor.to(_dtype(original, name))


def _when(trained: Path) -> str:
    """Return at which step the training went wrong, where transformers' Trainer noted its loss."""
    state = trained / "trainer_state.json"
    if not state.is_file():
        return ""
    for entry in json.loads(state.read_text(encoding="utf-8")).get("log_history", []):
        numbers = [entry.get(key, 0.0) for key in ("loss", "grad_norm")]
        if not all(math.isfinite(float(number)) for number in numbers):
            return f" at step {entry.get('step')} (its loss or gradient norm is not finite)"
    return ""


def _dtype(original: Checkpoint, name: str) -> Any:
    with safe_open(
        os.fspath(original.folder / original.tensors[name].file), framework="pt"
    ) as file:
        return file.get_slice(name)[:0].dtype
