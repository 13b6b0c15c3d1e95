"""Reads pickled tensors without running anything that their file may hold."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from ptl_plugins.errors import StageError

FIRST_SAFE_TORCH = "2.6"
"""Before, a file could run a program even when it was loaded as weights only (CVE-2025-32434)."""
SAFE_CLASSES: Mapping[str, tuple[str, ...]] = {
    "torch.distributed.tensor": ("DTensor", "Replicate", "Shard"),
    "torch.distributed.tensor._dtensor_spec": ("DTensorSpec", "TensorMeta", "ShardOrderEntry"),
    "torch.distributed.device_mesh": ("DeviceMesh",),
    "torch.distributed._mesh_layout": ("_MeshLayout",),
}
"""What a rank's file may hold beside plain tensors, by module; older torch lacks some."""


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a file of `torch.save` into memory, by name.

    Raises:
        StageError: no such file, cut short, with a class that is not allowed, or with anything
            but tensors by name.
    """
    _require_torch()
    if not path.is_file():
        raise StageError(f"{path}: no such file: a rank's shard is missing; copy it from its node")
    try:
        with _allowed():
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            state = {} if refused else _load_mapped(path)
    except Exception as error:  # a file that was tampered with can raise anything
        raise StageError(
            f"{path}: is no whole file of tensors ({type(error).__name__}: {in_short(error)}); "
            "copy it again or train the stage again"
        ) from error
    if refused:
        raise StageError(
            f"{path}: holds {', '.join(sorted(refused))}, and only tensors and their sharding "
            f"are read, as other classes can run any program; if a later torch than "
            f"{torch.__version__} saved it, use that here, else do not trust the file"
        )
    return state


def _require_torch() -> None:
    if Version(torch.__version__) < Version(FIRST_SAFE_TORCH):
        raise StageError(
            f"torch {torch.__version__}: cannot read pickled shards safely (CVE-2025-32434); "
            f"install torch {FIRST_SAFE_TORCH} or later beside PTL"
        )


def in_short(error: Exception) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split())[:200]


def _load_mapped(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(state, dict) or not state:
        raise ValueError("it holds no tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
    return state


@contextlib.contextmanager
def _allowed() -> Iterator[None]:
    """Let torch's unpickler take the sharding's classes, and not warn that no ranks run here."""
    known = torch.serialization.get_safe_globals()
    # leaving the context forgets a class even if it was known before, so those are not added
    new: list[Any] = [each for each in _safe_classes() if each not in known]
    logger = logging.getLogger("torch.distributed.device_mesh")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.serialization.safe_globals(new):
            yield
    finally:
        logger.setLevel(level)


def _safe_classes() -> Iterator[Any]:
    for module, names in SAFE_CLASSES.items():
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(module)
            yield from (getattr(found, name) for name in names if hasattr(found, name))
