"""Reads a YAML file safely: plain data only, duplicate keys refused, errors with a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.errors import RecipeError

MAX_BYTES = 1 << 20


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the file's mapping and its text.

    Raises:
        RecipeError: no such file, too large, not YAML, a key twice, or not a mapping.
    """
    text = _read_text(path)
    try:
        keys = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from None
    except ValueError as error:  # a date or a number that only looks like one
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path}: not valid YAML: is nested too deeply") from None
    if not isinstance(keys, dict):
        raise RecipeError(f"{path}: holds no keys; a recipe is a mapping of keys to values")
    return keys, text


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: is larger than {MAX_BYTES} bytes; a recipe is a short file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])
