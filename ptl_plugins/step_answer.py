"""A step that no plugin took is an error, not a None that travels on."""

from __future__ import annotations

from typing import TypeVar

from ptl_plugins.errors import PluginError

T = TypeVar("T")


def answer(value: T | None, hook: str) -> T:
    """Return a step's answer.

    Raises:
        PluginError: it is None: no plugin took the step.
    """
    if value is None:
        raise PluginError(f"no plugin answered {hook}; was a built-in switched off with -p no:?")
    return value
