"""How numbers are written; one that is missing is a dash."""

from __future__ import annotations

import math

MISSING = "-"
"""What stands where nothing was measured."""

UNITS = ((1e9, "B"), (1e6, "M"))
"""Of parameters."""

HOUR, MINUTE = 3600.0, 60.0


def parameters(value: int | None) -> str:
    """Return a number of parameters: 8.03 B, 134.5 M, 12,345."""
    if value is None:
        return MISSING
    size, letter = parameter_unit(value)
    if not letter:
        return f"{value:,}"
    return f"{value / size:.2f} {letter}" if letter == "B" else f"{value / size:.1f} {letter}"


def parameter_unit(value: int) -> tuple[float, str]:
    """Return the unit in which a number of parameters is shown, and its letter."""
    return next((unit for unit in UNITS if value >= unit[0]), (1.0, ""))


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 in percent."""
    return MISSING if share is None else f"{share:.1%}"


def ratio(value: float | None) -> str:
    """Return a ratio with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def number(value: float) -> str:
    """Return a plain metric: three decimals, or three digits where those would show nothing."""
    plain = value == 0 or 0.001 <= abs(value) < 1e6 or not math.isfinite(value)
    return f"{value:.3f}" if plain else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Return the seconds of a step."""
    return MISSING if value is None else f"{value:,.1f}"


def duration(value: float | None, longest: float) -> str:
    """Return a time in the unit that suits the longest it stands beside: s, min or h."""
    if value is None:
        return MISSING
    if longest < 10 * MINUTE:
        return f"{value:.0f} s"
    return f"{value / MINUTE:.1f} min" if longest < 2 * HOUR else f"{value / HOUR:.1f} h"
