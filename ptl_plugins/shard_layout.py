"""How the tensors that stay are laid out over the files of a pruned checkpoint."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptl_plugins.shard_header import LENGTH_BYTES
from ptl_plugins.shards import Checkpoint
from ptl_plugins.tensor_cut import TensorCut

NUMBERED = re.compile(r"(?P<stem>.*-)(?P<number>\d+)-of-\d+\.safetensors")
ALIGNMENT = 8
"""The tensors' bytes begin at a multiple of the largest element."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLayout:
    """One file of the pruned checkpoint."""

    file: str
    cuts: tuple[TensorCut, ...]
    """In the order of their bytes, without gaps."""
    header: bytes
    """What the file begins with: length and JSON."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(cut.num_bytes for cut in self.cuts)


def shard_layouts(checkpoint: Checkpoint, cuts: Sequence[TensorCut]) -> tuple[ShardLayout, ...]:
    """Return the files of the pruned checkpoint: those of the original that keep a tensor."""
    by_file: dict[str, list[TensorCut]] = {}
    for cut in cuts:
        by_file.setdefault(cut.entry.file, []).append(cut)
    new_names = _renumbered(sorted(by_file)) if len(by_file) < len(checkpoint.files) else {}
    return tuple(_layout(checkpoint, file, by_file[file], new_names) for file in sorted(by_file))


def index_json(checkpoint: Checkpoint, layouts: Sequence[ShardLayout]) -> dict[str, Any]:
    """Return the index of the pruned checkpoint; `total_parameters` only where it was."""
    assert checkpoint.index is not None
    metadata = dict(checkpoint.index.metadata)
    cuts = [cut for layout in layouts for cut in layout.cuts]
    metadata["total_size"] = sum(cut.num_bytes for cut in cuts)
    if isinstance(metadata.get("total_parameters"), int):
        # less what went: the writer may have counted tied tensors in its own way
        before = sum(math.prod(entry.shape) for entry in checkpoint.tensors.values())
        metadata["total_parameters"] -= before - sum(math.prod(cut.shape) for cut in cuts)
    weight_map = {cut.name: layout.file for layout in layouts for cut in layout.cuts}
    return {"metadata": metadata, "weight_map": weight_map}


def _renumbered(files: Sequence[str]) -> dict[str, str]:
    """Return new names `...-i-of-n.safetensors`, none where a file is not named like that."""
    matches = [NUMBERED.fullmatch(file) for file in files]
    names = {}
    for number, match in enumerate(matches, start=1):
        if match is None:
            return {}
        digits = len(match["number"])
        new = f"{match['stem']}{number:0{digits}d}-of-{len(files):0{digits}d}.safetensors"
        names[match.string] = new
    return names


def _layout(
    checkpoint: Checkpoint, file: str, cuts: Sequence[TensorCut], new_names: Mapping[str, str]
) -> ShardLayout:
    ordered = _aligned(cuts)
    return ShardLayout(
        file=new_names.get(file, file),
        cuts=ordered,
        header=_header(ordered, checkpoint.file_metadata[file]),
    )


def _starts(cuts: Sequence[TensorCut]) -> list[int]:
    return list(itertools.accumulate((cut.num_bytes for cut in cuts), initial=0))


def _aligned(cuts: Sequence[TensorCut]) -> tuple[TensorCut, ...]:
    """Return the cuts in their order, or the largest elements first where one would straddle."""
    if any(start % cut.entry.item_bytes for start, cut in zip(_starts(cuts), cuts, strict=False)):
        return tuple(sorted(cuts, key=lambda cut: -cut.entry.item_bytes))
    return tuple(cuts)


def _header(cuts: Sequence[TensorCut], metadata: Mapping[str, str] | None) -> bytes:
    keys: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    for start, cut in zip(_starts(cuts), cuts, strict=False):
        keys[cut.name] = {
            "dtype": cut.entry.dtype,
            "shape": list(cut.shape),
            "data_offsets": [start, start + cut.num_bytes],
        }
    text = json.dumps(keys, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
