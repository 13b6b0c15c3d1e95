"""Writes a checkpoint's tensors as they come, in files of bounded size."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from ptl_plugins.durable import write_json
from ptl_plugins.shards import INDEX_FILE, SINGLE_FILE

SHARD_BYTES = 2**29
"""What waits in memory to be written is one file; a larger tensor has a file of its own."""
METADATA = {"format": "pt"}


@dataclass(kw_only=True)
class ShardFiles:
    """The files of one folder: `add` until all is there, then `finish`."""

    folder: Path
    shard_bytes: int = SHARD_BYTES
    _pending: dict[str, torch.Tensor] = field(default_factory=dict)
    _names: list[list[str]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take tensors, and write a file when there are enough."""
        for name, tensor in tensors.items():
            if self._pending and self._pending_bytes + tensor.nbytes > self.shard_bytes:
                self._flush()
            self._pending[name] = tensor

    def finish(self) -> None:
        """Write what is left, and give the files the names that transformers looks for."""
        self._flush()
        number = len(self._names)
        if number == 1:
            self._part(0).rename(self.folder / SINGLE_FILE)
            return
        weight_map = {}
        for index, names in enumerate(self._names):
            file = f"model-{index + 1:05d}-of-{number:05d}.safetensors"
            self._part(index).rename(self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        metadata = {"total_size": self._bytes}
        write_json(self.folder / INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})

    @property
    def _pending_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._pending.values())

    def _flush(self) -> None:
        save_file(self._pending, os.fspath(self._part(len(self._names))), METADATA)
        self._bytes += self._pending_bytes
        self._names.append(list(self._pending))
        self._pending = {}

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index}.safetensors"
