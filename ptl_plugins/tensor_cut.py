"""What a plan makes of each tensor of a checkpoint: gone, cut, renamed, or as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.shards import Checkpoint
from ptl_plugins.types import PrunePlan

FLOATS = ("F64", "F32", "F16", "BF16")
"""What matrices of neurons may be stored in: integers would be packed, quantised values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorCut:
    """One tensor of the pruned checkpoint, and the one that it comes from."""

    entry: TensorEntry
    """Before the cut."""
    name: str
    """After the cut."""
    shape: tuple[int, ...]
    """After the cut."""
    layer: int | None = None
    """Index of its layer before the cut."""
    axis: int | None = None
    """Of the neurons: 0 in the FFN's inputs, 1 in its output matrix, None in other tensors."""
    blocks: int = 1
    """Blocks of neurons along the axis."""

    @property
    def num_bytes(self) -> int:
        """Bytes after the cut."""
        return math.prod(self.shape) * self.entry.item_bytes


def tensor_cuts(checkpoint: Checkpoint, family: Family, plan: PrunePlan) -> tuple[TensorCut, ...]:
    """Return the tensors that stay, in the checkpoint's order.

    Raises:
        PruneError: a layer lacks a matrix of the family or has it in another shape, or there are
            more layers than the plan knows.
    """
    axes = _axes(family)
    _require_matrices(checkpoint, family, plan)
    positions = _positions(plan)
    cuts = []
    for entry in checkpoint.tensors.values():
        layer, part = _placed(entry.name, family)
        if layer is None:
            cuts.append(TensorCut(entry=entry, name=entry.name, shape=entry.shape))
            continue
        if layer >= plan.num_layers:
            raise _wrong(checkpoint, entry, f"expected only layers below {plan.num_layers}")
        axis, blocks = axes.get(part, (None, 1))
        shape = entry.shape
        if axis is not None:
            _require_shape(checkpoint, entry, axis, blocks * plan.width)
            shape = (*shape[:axis], blocks * plan.new_width, *shape[axis + 1 :])
        if layer in positions:
            name = f"{family.layers}.{positions[layer]}.{part}"
            cuts.append(
                TensorCut(
                    entry=entry, name=name, shape=shape, layer=layer, axis=axis, blocks=blocks
                )
            )
    return tuple(cuts)


def _axes(family: Family) -> dict[str, tuple[int, int]]:
    """Return the axis and the blocks of neurons by the tensor's name within its layer.

    The output's bias is missing on purpose: it belongs to no neuron.
    """
    axes = {f"{family.ffn_output}.weight": (1, 1)}
    for name in family.ffn_inputs:
        axes[f"{name}.weight"] = axes[f"{name}.bias"] = (0, family.ffn_blocks)
    return axes


def _positions(plan: PrunePlan) -> Mapping[int, int]:
    """Return the new index of each layer that stays."""
    gone = set(plan.removed_layers)
    kept = (index for index in range(plan.num_layers) if index not in gone)
    return {index: position for position, index in enumerate(kept)}


def _placed(name: str, family: Family) -> tuple[int | None, str]:
    """Return the layer that the tensor `name` belongs to, and its name within the layer."""
    prefix = family.layers + "."
    number, dot, part = name.removeprefix(prefix).partition(".")
    if not name.startswith(prefix) or not dot or not number.isdecimal():
        return None, name
    return int(number), part


def _matrices(family: Family, plan: PrunePlan) -> Iterator[str]:
    for layer in range(plan.num_layers):
        for module in (*family.ffn_inputs, family.ffn_output):
            yield f"{family.layers}.{layer}.{module}.weight"


def _require_matrices(checkpoint: Checkpoint, family: Family, plan: PrunePlan) -> None:
    for name in _matrices(family, plan):
        if name not in checkpoint.tensors:
            raise PruneError(
                f"{checkpoint.folder}: has no tensor '{name}', which every one of the plan's "
                f"{plan.num_layers} layers has in family '{family.name}'; check model and family"
            )


def _require_shape(checkpoint: Checkpoint, entry: TensorEntry, axis: int, size: int) -> None:
    dims = 1 if entry.name.endswith(".bias") else 2
    if len(entry.shape) != dims or entry.shape[axis] != size:
        expected = ["*"] * dims
        expected[axis] = str(size)
        raise _wrong(checkpoint, entry, f"expected [{', '.join(expected)}]")
    if entry.dtype not in FLOATS:
        raise _wrong(checkpoint, entry, f"dtype {entry.dtype} (allowed: {', '.join(FLOATS)})")


def _wrong(checkpoint: Checkpoint, entry: TensorEntry, expected: str) -> PruneError:
    return PruneError(
        f"{checkpoint.folder / entry.file}: tensor '{entry.name}' has shape {list(entry.shape)}, "
        f"{expected}; the plan is for another model, or its layers differ in width"
    )
