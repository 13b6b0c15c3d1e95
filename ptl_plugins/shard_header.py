"""The header of one safetensors file: which tensor lies where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PruneError

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "I8": 1, "U8": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F32": 4, "I32": 4,
    "U32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
"""Bytes per element of the dtypes that are read; the others of safetensors are quantised."""
LENGTH_BYTES = 8
"""A file begins with the length of its header, little-endian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    name: str
    dtype: str
    """As safetensors spells it, such as BF16."""
    shape: tuple[int, ...]
    file: str
    """Name of the file, in the checkpoint's folder."""
    start: int
    """First byte, from the beginning of the file."""
    end: int
    """The byte after the last."""

    @property
    def item_bytes(self) -> int:
        """Bytes per element."""
        return ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardHeader:
    """What one file says of itself."""

    metadata: Mapping[str, str] | None
    """The text values under `__metadata__`; None where it has none."""
    tensors: tuple[TensorEntry, ...]
    """In the order of their bytes."""


def read_header(path: Path) -> ShardHeader:
    """Read the header of `path`; safetensors itself checks that it describes the whole file.

    Raises:
        PruneError: no regular file, no safetensors file, cut short, or with a quantised dtype.
    """
    if not path.is_file():
        raise PruneError(f"{path}: no such file; download or copy the checkpoint again")
    try:
        _validate(path)
        start, keys = _parse(path)
    except OSError as error:
        raise PruneError(f"{path}: cannot be read ({error.strerror or error})") from error
    metadata = keys.pop("__metadata__", None)
    entries = [_entry(path, name, keys[name], start) for name in keys]
    entries.sort(key=lambda entry: (entry.start, entry.end, entry.name))
    return ShardHeader(metadata=metadata, tensors=tuple(entries))


def _validate(path: Path) -> None:
    """Let safetensors refuse holes, overlaps, lengths that fit no shape, and unknown dtypes."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except SafetensorError as error:
        reason = _cut_short(path) or " ".join(str(error).split())
        raise PruneError(
            f"{path}: is not a whole safetensors file: {reason}; download or copy it again"
        ) from error


def _cut_short(path: Path) -> str | None:
    """Return the likeliest reason in words, if it is that: a download that was broken off."""
    try:
        start, keys = _parse(path)
        ends = [start + int(keys[name]["data_offsets"][1]) for name in keys if name[:2] != "__"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    present, needed = path.stat().st_size, max(ends, default=start)
    return f"it has {present} bytes of {needed}" if present < needed else None


def _parse(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors' bytes begin, and the header's JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if LENGTH_BYTES + length > path.stat().st_size:  # read() would reserve that much memory
            raise ValueError(f"a header of {length} bytes")
        return LENGTH_BYTES + length, json.loads(file.read(length))


def _entry(path: Path, name: str, facts: Mapping[str, Any], start: int) -> TensorEntry:
    if facts["dtype"] not in ITEM_BYTES:
        raise PruneError(
            f"{path}: tensor {name!r} has dtype {facts['dtype']}, and a quantised model cannot be "
            f"pruned (allowed: {', '.join(ITEM_BYTES)}); give the full-precision one"
        )
    first, last = facts["data_offsets"]
    return TensorEntry(
        name=name,
        dtype=facts["dtype"],
        shape=tuple(facts["shape"]),
        file=path.name,
        start=start + first,
        end=start + last,
    )
