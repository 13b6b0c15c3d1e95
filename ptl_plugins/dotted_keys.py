"""Nested keys as one level: `recover.0.settings.learning_rate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def dotted(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, plain value) of everything in nested mappings and lists."""
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield key, value
        return
    for name, inner in items:
        yield from dotted(inner, f"{key}.{name}" if key else str(name))
