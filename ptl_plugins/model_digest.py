"""A fingerprint of a checkpoint's weights that costs milliseconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
from io import FileIO

from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.shards import Checkpoint

BLOCK_BYTES = 4096
NUM_BLOCKS = 5
"""Blocks per tensor: the first, the last, and three evenly between."""


def model_digest(checkpoint: Checkpoint) -> str:
    """Return a SHA-256 over names, dtypes, shapes and SAMPLED bytes of all tensors.

    It tells models apart (training moves every matrix as a whole), but it is no proof of equal
    weights: a change between the sampled blocks of 4 KiB goes unseen. It does not depend on how
    the tensors are spread over files.
    """
    total = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        files = {
            file: stack.enter_context(FileIO(checkpoint.folder / file)) for file in checkpoint.files
        }
        for name, entry in sorted(checkpoint.tensors.items()):
            total.update(f"{name}\0{entry.dtype}\0{list(entry.shape)}\n".encode())
            for offset, length in _blocks(entry):
                total.update(os.pread(files[entry.file].fileno(), length, offset))
    return total.hexdigest()


def _blocks(entry: TensorEntry) -> list[tuple[int, int]]:
    """Return offset and length of the sampled blocks, all bytes of a small tensor."""
    size = entry.end - entry.start
    if size <= NUM_BLOCKS * BLOCK_BYTES:
        return [(entry.start, size)]
    span, gaps = size - BLOCK_BYTES, NUM_BLOCKS - 1
    return [(entry.start + span * i // gaps, BLOCK_BYTES) for i in range(NUM_BLOCKS)]
