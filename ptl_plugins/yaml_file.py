"""Reads a YAML file safely: plain data only, within limits, errors with a line."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.yaml_loader import BoundedLoader

MAX_BYTES = 1 << 20


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the file's mapping and its text.

    Raises:
        RecipeError: no such file, no regular file, too large, not YAML, a key twice, or not a
            mapping.
    """
    text = _read_text(path)
    try:
        keys = yaml.load(text, Loader=BoundedLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(keys, dict):
        raise RecipeError(f"{path}: holds no keys; a recipe is a mapping of keys to values")
    return keys, text


def _read_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would wait, a device not end
            raise RecipeError(f"{path}: is no regular file; a recipe is a short text file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise RecipeError(f"{path}: is larger than {MAX_BYTES} bytes; a recipe is a short file")
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])
