"""Amounts as people write them: 500, 0.1, 5B."""

from __future__ import annotations

import re

UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def read_amount(value: object) -> object:
    """Return the number that text such as `5B` or `350M` stands for; other values as they are."""
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9.]+)\s*([KMBT])", value.strip())):
        try:
            return float(found[1]) * UNITS[found[2]]
        except ValueError:
            return value
    return value
