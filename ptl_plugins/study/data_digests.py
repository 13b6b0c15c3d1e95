"""Fingerprints of what a run reads: its recipe's files, and the model it starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.model_digest import model_digest
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.study.merging import MODEL_KEYS, Door

BLOCK_BYTES = 1 << 20


def data_digests(keys: Mapping[str, Any], door: Door) -> dict[str, str]:
    """Return the SHA-256 of every file that a merged recipe reads, by its path as it is written.

    Of the original's folder it is `model_digest`, which samples the weights. What is not on this
    machine, such as a model of the hub, has none.

    Args:
        keys: the merged recipe; relative paths are relative to the current folder.
        door: which command runs it.
    """
    found = {path: _file_digest(Path(path)) for path in sorted(set(_files(keys)))}
    model = str(keys.get(MODEL_KEYS[door], ""))
    return {**_original(model), **found}


def _files(keys: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of files: plain values, and the datasets that a yaml names."""
    for value in _strings(keys):
        if "\n" not in value and len(value) < 1024 and Path(value).is_file():
            yield value
    yield from _datasets(keys)


def _datasets(keys: Mapping[str, Any]) -> Iterator[str]:
    folder = Path(str(keys.get("dataset_dir", "data")))
    try:
        entries = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for name in str(keys.get("dataset", "")).split(","):
        entry = entries.get(name.strip(), {}) if isinstance(entries, dict) else {}
        path = folder / str(entry.get("file_name", ""))
        if path.is_file():
            yield path.as_posix()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _original(model: str) -> dict[str, str]:
    if not model or not Path(model).is_dir():
        return {}
    try:
        return {model: model_digest(open_checkpoint(Path(model)))}
    except (OSError, PTLError):  # the run itself tells what is wrong with it
        return {}


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
