"""Bytes of what a run writes, from the model's config and headers alone; nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import Geometry
from ptl_plugins.model_config import config_path, read_config
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.side_files import side_files

DTYPE_BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
TRAINED_BYTES = 4
"""Per parameter: a trainer keeps fp32 copies, and saves them."""
OPTIMIZER_BYTES = 8
"""Per parameter: Adam's two fp32 states."""
DEEPSPEED_BYTES = 8
"""Per parameter, beside those: fp32 master weights, and the module's own once more."""
SIDE_BYTES = 40_000_000
"""A tokenizer's files, where the model is not on this machine yet."""
INDEX_BYTES = 8
"""One neuron's index as text, in `plan.json` and `ptl_pruning.json`."""
STATISTICS = 4
"""At most so many numbers per neuron are kept of a profiling pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """What a model of any of the run's shapes takes on the disk."""

    original: Geometry
    weights: int
    """Bytes of the original's tensors."""
    parameter: int
    """Bytes of one of its parameters, of those that take least."""
    side: int
    """Bytes of its side files, which every model folder holds."""

    def stored(self, shape: Geometry) -> int:
        """Return the bytes of a checkpoint in the original's dtype."""
        fewer = self.original.num_parameters - shape.num_parameters
        return self.weights - fewer * self.parameter + self.side + indices(shape)

    def trained(self, shape: Geometry) -> int:
        """Return the bytes of what a trainer saves in the end."""
        return shape.num_parameters * max(TRAINED_BYTES, self.parameter) + self.side

    def saved(self, shape: Geometry, settings: Mapping[str, Any]) -> int:
        """Return the bytes of one checkpoint that a trainer saves on its way."""
        if settings.get("save_only_model"):
            return self.trained(shape)
        more = OPTIMIZER_BYTES + (DEEPSPEED_BYTES if settings.get("deepspeed") else 0)
        return self.trained(shape) + shape.num_parameters * more


def model_sizes(model: str, original: Geometry) -> ModelSizes:
    """Measure a checkpoint on this machine; of one that is not, go by its config.

    Raises:
        PTLError: it has no config that can be read.
    """
    folder = config_path(model).parent
    try:
        tensors = open_checkpoint(folder).tensors.values()
    except PTLError:  # of the hub, or not to be used at all, which others will say
        each = _parameter_bytes(read_config(model))
        weights = original.num_parameters * each
        return ModelSizes(original=original, weights=weights, parameter=each, side=SIDE_BYTES)
    return ModelSizes(
        original=original,
        weights=sum(entry.end - entry.start for entry in tensors),
        parameter=min(entry.item_bytes for entry in tensors),
        side=sum(file.stat().st_size for file in side_files(str(folder))),
    )


def num_saved(settings: Mapping[str, Any], default: str) -> int | None:
    """Return how many checkpoints lie in a stage's folder at a time; None: data decide.

    Args:
        settings: the keys of transformers' Trainer, as LLaMA-Factory takes them.
        default: the `save_strategy` where they have none.
    """
    strategy = settings.get("save_strategy", default)
    if strategy in ("no", False):  # yaml reads a bare `no` as false
        return 0
    number = _num_saves(settings, str(strategy))
    limit = int(settings.get("save_total_limit") or 0)
    if limit <= 0:
        return number
    return limit + 1 if number is None else min(number, limit + 1)  # the oldest goes last


def _num_saves(settings: Mapping[str, Any], strategy: str) -> int | None:
    steps, last = float(settings.get("save_steps", 500)), int(settings.get("max_steps") or -1)
    if strategy == "epoch" and last <= 0:
        return math.ceil(float(settings.get("num_train_epochs", 3)))
    if strategy != "steps" or steps <= 0:
        return None
    if steps < 1:  # a share of the stage
        return math.ceil(1 / steps)
    return math.ceil(last / steps) if last > 0 else None


def indices(shape: Geometry) -> int:
    """Return the bytes of a text that names every neuron of every layer."""
    return shape.num_layers * shape.width * INDEX_BYTES


def scores(shape: Geometry) -> int:
    """Return the bytes of a profiling pass's statistics."""
    return shape.num_layers * shape.width * STATISTICS * 4


def second_moments(shape: Geometry) -> int:
    """Return the bytes of [width, width] in fp32 for every layer."""
    return shape.num_layers * shape.width**2 * 4


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 where nothing is."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def show_bytes(number: int) -> str:
    """Return bytes as people write them: 12.3 GB, 4.5 MB."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _parameter_bytes(config: Mapping[str, Any]) -> int:
    """Return the bytes of a parameter in the config's dtype, which is fp32 where it has none."""
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return DTYPE_BYTES.get(str(dtype).removeprefix("torch."), 4)
