"""How a study's numbers are written in cells."""

from __future__ import annotations

import math

from ptl_plugins.report.formats import MISSING, number, percent
from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.spread import Difference, Spread


def spread_cell(metric: Metric, found: Spread | None) -> str:
    """Return a mean with its deviation: 1.234 +- 0.012, 46.8% +- 1.3."""
    if found is None:
        return MISSING
    if metric.is_share:
        more = "" if found.deviation is None else f" +- {100 * found.deviation:.1f}"
        return percent(found.mean) + more
    more = "" if found.deviation is None else f" +- {_deviation(found)}"
    return number(found.mean) + more


def difference_cell(metric: Metric, found: Difference | None) -> str:
    """Return a difference with its deviation: -0.034 +- 0.010, +1.2 pp."""
    if found is None:
        return MISSING
    scale, digits, unit = _form(metric)
    more = "" if found.deviation is None else f" +- {scale * found.deviation:.{digits}f}"
    return f"{scale * found.mean:+z.{digits}f}{more}{unit}"


def interval_cell(metric: Metric, found: Difference | None) -> str:
    """Return the interval of a difference: -0.061 to -0.007."""
    if found is None or found.interval is None:
        return MISSING
    scale, digits, unit = _form(metric)
    low, high = (f"{scale * end:+z.{digits}f}" for end in found.interval)
    return f"{low} to {high}{unit}"


def p_value_cell(found: Difference | None) -> str:
    """Return the p value: 0.031, below 0.001."""
    if found is None or found.p_value is None or not math.isfinite(found.p_value):
        return MISSING
    return "below 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"


def count_cell(values: list[int]) -> str:
    """Return a count that all seeds share, or its mean with `~` where they differ."""
    if not values:
        return MISSING
    mean = round(sum(values) / len(values))
    return f"{mean:,}" if len(set(values)) == 1 else f"~{mean:,}"


def _form(metric: Metric) -> tuple[float, int, str]:
    return (100.0, 1, " pp") if metric.is_share else (1.0, 3, "")


def _deviation(found: Spread) -> str:
    return number(found.deviation or 0.0)
