"""Writes one file from pieces of another: whole tensors, some rows, some columns.

All that is written goes through one buffer whose flushes begin and end at multiples of its size
in the file, so that the file cache takes large pages. `copy_file_range` was tried for whole
tensors: they begin anywhere in a page of source and target, and then it needed 0.25 s of CPU for
670 MB where this needs 0.10 s (ext4, Linux 6.18).
"""

from __future__ import annotations

import os
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptl_plugins.errors import PruneError
from ptl_plugins.shard_header import TensorEntry

FLUSH_BYTES = 2**20
"""Large enough for large pages, smaller than the blocks that a virtual machine gives back."""
READ_BYTES = 2**20
"""Small enough to stay in the processor's cache from reading to taking."""


class ShardWriter:
    """Appends to `target` what it takes from `source`, within two small buffers."""

    def __init__(self, source: FileIO, target: FileIO) -> None:
        """Start at the beginning of both files."""
        self._source = source
        self._target = target
        self._read = np.empty(READ_BYTES, np.uint8)
        self._pending = np.empty(FLUSH_BYTES, np.uint8)
        self._used = 0

    def raw(self, array: NDArray[Any]) -> None:
        """Append the bytes of a C-contiguous array."""
        flat = array.reshape(-1).view(np.uint8)
        while len(flat):
            count = min(len(flat), FLUSH_BYTES - self._used)
            self._pending[self._used : self._used + count] = flat[:count]
            self._advance(count)
            flat = flat[count:]

    def whole(self, entry: TensorEntry) -> None:
        """Append a tensor as it is."""
        position = entry.start
        while position < entry.end:
            count = min(entry.end - position, FLUSH_BYTES - self._used)
            self._read_into(self._pending[self._used : self._used + count], position)
            self._advance(count)
            position += count

    def rows(self, entry: TensorEntry, kept: NDArray[np.intp]) -> None:
        """Append the `kept` (ascending) rows of a matrix, or entries of a vector.

        Rows that go are read only where they lie between rows that stay.
        """
        row_items = entry.shape[1] if len(entry.shape) == 2 else 1
        span = self._rows_read(entry, row_items)
        done = 0
        while done < len(kept):
            first = int(kept[done])
            chosen = kept[done : done + self._rows_to_flush(entry, row_items)]
            chosen = chosen[: int(np.searchsorted(chosen, first + span))] - first
            chunk = self._matrix(entry, first, first + int(chosen[-1]) + 1, row_items)
            room = self._room(entry, len(chosen), row_items)
            # 'clip' lets numpy write into `out` at once; every index is in range
            self._advance(np.take(chunk, chosen, axis=0, out=room, mode="clip").nbytes)
            done += len(chosen)

    def columns(self, entry: TensorEntry, kept: NDArray[np.intp]) -> None:
        """Append the `kept` columns of a matrix."""
        num_rows, row_items = entry.shape
        span = self._rows_read(entry, row_items)
        first = 0
        while first < num_rows:
            last = min(num_rows, first + min(span, self._rows_to_flush(entry, len(kept))))
            chunk = self._matrix(entry, first, last, row_items)
            room = self._room(entry, last - first, len(kept))
            self._advance(np.take(chunk, kept, axis=1, out=room, mode="clip").nbytes)
            first = last

    def finish(self) -> None:
        """Write what is still pending."""
        self._write(self._used)

    def _rows_read(self, entry: TensorEntry, row_items: int) -> int:
        """Return how many rows are read at a time."""
        return max(1, READ_BYTES // max(1, row_items * entry.item_bytes))

    def _rows_to_flush(self, entry: TensorEntry, row_items: int) -> int:
        """Return how many rows fill the buffer, the last one perhaps beyond its end."""
        return -(-(FLUSH_BYTES - self._used) // max(1, row_items * entry.item_bytes))

    def _matrix(self, entry: TensorEntry, first: int, last: int, row_items: int) -> NDArray[Any]:
        """Read the rows from `first` up to `last`, as integers of the elements' size."""
        row_bytes = row_items * entry.item_bytes
        if (last - first) * row_bytes > len(self._read):
            self._read = np.empty((last - first) * row_bytes, np.uint8)
        chunk = self._read[: (last - first) * row_bytes]
        self._read_into(chunk, entry.start + first * row_bytes)
        return chunk.view(f"u{entry.item_bytes}").reshape(last - first, row_items)

    def _room(self, entry: TensorEntry, num_rows: int, row_items: int) -> NDArray[Any]:
        """Return the next bytes of the buffer as a matrix to be filled."""
        end = self._used + num_rows * row_items * entry.item_bytes
        if end > len(self._pending):
            more = np.empty(end - self._used, np.uint8)
            self._pending = np.concatenate((self._pending[: self._used], more))
        room = self._pending[self._used : end].view(f"u{entry.item_bytes}")
        return room.reshape(num_rows, row_items)

    def _advance(self, num_bytes: int) -> None:
        """Count what was put into the buffer; flush it once it is full, and keep the rest."""
        self._used += num_bytes
        if self._used >= FLUSH_BYTES:
            rest = self._used % FLUSH_BYTES
            full = self._used - rest
            self._write(full)
            self._pending[:rest] = self._pending[full : full + rest]
            self._used = rest

    def _write(self, num_bytes: int) -> None:
        view = self._pending[:num_bytes].data
        while view:
            view = view[os.write(self._target.fileno(), view) :]

    def _read_into(self, array: NDArray[np.uint8], position: int) -> None:
        view = array.data
        while view:
            count = os.preadv(self._source.fileno(), [view], position)
            if not count:
                raise PruneError(
                    f"{self._source.name}: ended at byte {position} while it was read; it was "
                    "changed meanwhile, start again once it is whole"
                )
            position += count
            view = view[count:]
