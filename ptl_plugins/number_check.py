"""Numbers of a recipe that no training can take, told before anything is written.

The frameworks' own parsers let them pass, and their optimizers raise when a round has begun.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ptl_plugins.dotted_keys import dotted

RATE = "learning_rate"


def number_problems(keys: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Return one line, `key: what is wrong`, for each: not finite, or a negative learning rate."""
    return [
        f"{key}: {value}: {why}" for key, value in dotted(keys, prefix) if (why := _why(key, value))
    ]


def _why(key: str, value: Any) -> str | None:
    is_rate = key.rpartition(".")[2] == RATE
    number = _number(value, is_rate=is_rate)
    if number is not None and not math.isfinite(number):
        return "is no finite number; give one"
    if number is not None and is_rate and number < 0:
        return "is negative; a learning rate is 0 or more, such as 1.0e-5"
    return None


def _number(value: Any, *, is_rate: bool) -> float | None:
    """Return a number; of a learning rate also as text, which 1e-5 is in YAML."""
    if isinstance(value, float) or (is_rate and isinstance(value, int | str)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None  # the framework's parser says what is wrong with it
    return None
