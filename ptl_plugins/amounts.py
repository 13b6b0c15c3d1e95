"""Amounts as people write them: 500, 0.1, 5B."""

from __future__ import annotations

UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
SHOWN = ("T", "B", "M")
"""Units in which amounts are shown; a thousand neurons stay 1000."""


def read_amount(value: object) -> object:
    """Return the number that text such as `0.1`, `5B` or `350M` stands for; others as they are.

    Raises:
        ValueError: the text is no number, or the value is true or false.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        return _number(value.strip()) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("is not a number such as 500, 0.1 or 5B") from None


def show_amount(amount: float) -> str:
    """Return an amount as people write it."""
    for letter in SHOWN:
        if amount >= UNITS[letter] and (amount / UNITS[letter] * 1000).is_integer():
            return f"{amount / UNITS[letter]:.15g}{letter}"
    return f"{amount:.15g}"


def _number(text: str) -> float:
    unit = UNITS.get(text[-1:])
    return float(text) if unit is None else float(text[:-1]) * unit
