"""Moves a tensor's bytes from file to file, whole or cut, within two small buffers."""

from __future__ import annotations

import errno
import os
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptl_plugins.errors import PruneError
from ptl_plugins.shard_header import TensorEntry

CHUNK_BYTES = 4 * 2**20
"""Large enough for large pages of the file cache, small enough for the processor's cache."""
KERNEL_BYTES = 2**30
"""A system call copies at most so much, so that a signal need not wait for a whole tensor."""
CANNOT_COPY = (
    errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.ETXTBSY,
)  # fmt: skip
"""A file system or kernel that does not copy by itself."""


class TensorCopier:
    """Appends tensors of one file to another; its two buffers are reused from tensor to tensor."""

    def __init__(self) -> None:
        self._read = np.empty(CHUNK_BYTES, np.uint8)
        self._taken = np.empty(CHUNK_BYTES, np.uint8)

    def whole(self, source: FileIO, entry: TensorEntry, target: FileIO) -> None:
        """Append the tensor as it is, inside the kernel where that is possible."""
        position = _copied_by_kernel(source, entry, target)
        while position < entry.end:
            chunk = self._read[: min(CHUNK_BYTES, entry.end - position)]
            _read_into(chunk, source, position)
            write(chunk, target)
            position += len(chunk)

    def rows(
        self, source: FileIO, entry: TensorEntry, kept: NDArray[np.intp], target: FileIO
    ) -> None:
        """Append the `kept` (ascending) rows of a matrix or entries of a vector."""
        row_items = entry.shape[1] if len(entry.shape) == 2 else 1
        first, last = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 0)
        for low, high in self._chunks(entry, first, last, row_items):
            begin, end = np.searchsorted(kept, (low, high))
            if begin == end:
                continue
            chunk = self._matrix(source, entry, low, high, row_items)
            taken = self._room(entry, int(end - begin), row_items)
            np.take(chunk, kept[begin:end] - low, axis=0, out=taken, mode="clip")
            write(taken, target)

    def columns(
        self, source: FileIO, entry: TensorEntry, kept: NDArray[np.intp], target: FileIO
    ) -> None:
        """Append the `kept` columns of a matrix."""
        num_rows, row_items = entry.shape
        for low, high in self._chunks(entry, 0, num_rows, row_items):
            chunk = self._matrix(source, entry, low, high, row_items)
            taken = self._room(entry, high - low, len(kept))
            # 'clip' lets numpy write into `out` at once; every index is in range
            np.take(chunk, kept, axis=1, out=taken, mode="clip")
            write(taken, target)

    def _chunks(
        self, entry: TensorEntry, first: int, last: int, row_items: int
    ) -> list[tuple[int, int]]:
        """Return ranges of rows that fit the buffers, one row each where a row does not fit."""
        step = max(1, CHUNK_BYTES // max(1, row_items * entry.item_bytes))
        return [(low, min(low + step, last)) for low in range(first, last, step)]

    def _matrix(
        self, source: FileIO, entry: TensorEntry, low: int, high: int, row_items: int
    ) -> NDArray[Any]:
        """Read the rows from `low` up to `high`, as integers of the elements' size."""
        num_bytes = (high - low) * row_items * entry.item_bytes
        if num_bytes > len(self._read):
            self._read = np.empty(num_bytes, np.uint8)
        chunk = self._read[:num_bytes]
        _read_into(chunk, source, entry.start + low * row_items * entry.item_bytes)
        return chunk.view(f"u{entry.item_bytes}").reshape(high - low, row_items)

    def _room(self, entry: TensorEntry, num_rows: int, row_items: int) -> NDArray[Any]:
        num_bytes = num_rows * row_items * entry.item_bytes
        if num_bytes > len(self._taken):
            self._taken = np.empty(num_bytes, np.uint8)
        return self._taken[:num_bytes].view(f"u{entry.item_bytes}").reshape(num_rows, row_items)


def write(array: NDArray[Any], target: FileIO) -> None:
    """Append the raw bytes of a C-contiguous array."""
    view = array.reshape(-1).view(np.uint8).data
    while view:
        view = view[os.write(target.fileno(), view[:CHUNK_BYTES]) :]


def _copied_by_kernel(source: FileIO, entry: TensorEntry, target: FileIO) -> int:
    """Append what the kernel copies by itself; return the source's position after it."""
    position = entry.start
    try:
        while position < entry.end:
            count = min(KERNEL_BYTES, entry.end - position)
            copied = os.copy_file_range(source.fileno(), target.fileno(), count, position)
            if not copied:  # the file's end, or a file system that cannot
                break
            position += copied
    except AttributeError:  # not Linux
        pass
    except OSError as error:
        if error.errno not in CANNOT_COPY:
            raise
    return position


def _read_into(array: NDArray[np.uint8], source: FileIO, position: int) -> None:
    view = array.data
    while view:
        count = os.preadv(source.fileno(), [view], position)
        if not count:
            raise PruneError(
                f"{source.name}: ended at byte {position} while it was read; it was changed "
                "meanwhile, start again once it is whole"
            )
        position += count
        view = view[count:]
