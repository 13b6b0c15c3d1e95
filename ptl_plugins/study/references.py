"""`{NAME}` in the values that a study sets: the folder of another run's finished model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

REFERENCE = re.compile(r"\{([A-Za-z0-9][A-Za-z0-9_.-]*)\}(/.*)?")
"""A whole value, or the beginning of a path."""
TEMPLATES = {"template", "prompt"}
"""Keys whose braces are names of columns."""


def references(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the values of dotted keys name as `{NAME}`, each once, in their order."""
    names = (name for key, value in changes.items() for name in _names(key, value))
    return tuple(dict.fromkeys(names))


def resolved(key: str, value: Any, folder_of: Callable[[str], Path]) -> Any:
    """Return the value with every `{NAME}` replaced by the folder of that run's model."""
    if _is_template(key):
        return value
    if isinstance(value, Mapping):
        return {name: resolved(str(name), inner, folder_of) for name, inner in value.items()}
    if isinstance(value, list):
        return [resolved(key, inner, folder_of) for inner in value]
    if isinstance(value, str) and (match := REFERENCE.fullmatch(value)):
        return f"{folder_of(match[1])}{match[2] or ''}"
    return value


def _names(key: str, value: Any) -> Iterator[str]:
    if _is_template(key):
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _names(str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(key, inner)
    elif isinstance(value, str) and (match := REFERENCE.fullmatch(value)):
        yield match[1]


def _is_template(key: str) -> bool:
    return key.rpartition(".")[2] in TEMPLATES
