"""PTL's own safetensors files: written whole or not at all, equal contents to equal bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace
from ptl_plugins.errors import PTLError

KEY = "ptl"
"""The one key of the metadata, with JSON: safetensors shuffles several."""


def save_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write numpy arrays or torch tensors on the CPU.

    A kill leaves at most the folder `NAME.ptl-tmp`, which the next try removes: safetensors
    itself writes to a name of its own beside the file.

    Raises:
        PTLError: the file cannot be written.
    """
    folder = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        remove(folder)
        folder.mkdir()
        file = folder / path.name
        _save(file, tensors, {KEY: json.dumps(metadata, sort_keys=True)})
        file.chmod(folder.stat().st_mode & 0o666)  # by umask; safetensors lets only the owner read
        replace(file, path)
    except (OSError, SafetensorError) as error:
        raise PTLError(
            f"{path}: cannot be written ({error}); make room, then give the same command again: "
            "it goes on"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def metadata_of(file: Any) -> dict[str, Any]:
    """Return the metadata of an open file, also of one with several keys.

    Raises:
        ValueError: the one key holds no JSON object.
    """
    plain = dict(file.metadata() or {})
    try:
        metadata = json.loads(plain[KEY]) if KEY in plain else plain
    except RecursionError:
        raise ValueError(f"metadata '{KEY}' is nested too deeply") from None
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata '{KEY}' is no JSON object")
    return metadata


def _save(file: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    if all(type(tensor).__module__ == "numpy" for tensor in tensors.values()):
        from safetensors import numpy as safetensors

        safetensors.save_file(dict(tensors), os.fspath(file), metadata)
    else:  # imported here: a prune needs no torch
        from safetensors.torch import save_file

        save_file(dict(tensors), os.fspath(file), metadata)
