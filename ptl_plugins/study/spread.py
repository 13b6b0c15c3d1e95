"""Means over seeds, and differences of two runs over equal seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ptl_plugins.errors import PTLError

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The mean of a result over seeds."""

    mean: float
    deviation: float | None
    """Of a single seed, the sample standard deviation; None with one seed."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """First minus second, over the seeds that both have."""

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    """Student's t, 95 %; None with one seed."""
    p_value: float | None
    """Two-sided, of no difference; None with one seed, or where all differences are equal."""
    seeds: tuple[int, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """Return the mean and the deviation of the values, or None of none."""
    if not values:
        return None
    deviation = stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    return Spread(mean=fmean(values), deviation=deviation, num_seeds=len(values))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return the difference of two runs' values by seed, or None where no seed is common.

    Raises:
        PTLError: SciPy, which the interval needs, is not installed.
    """
    seeds = tuple(sorted(first.keys() & second.keys()))
    differences = [first[seed] - second[seed] for seed in seeds]
    found = spread(differences)
    if found is None:
        return None
    interval = p_value = None
    if found.deviation is not None:
        interval, p_value = _student(found, found.deviation)
    return Difference(
        mean=found.mean,
        deviation=found.deviation,
        interval=interval,
        p_value=p_value,
        seeds=seeds,
    )


def _student(found: Spread, deviation: float) -> tuple[tuple[float, float], float | None]:
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise PTLError("intervals over seeds need SciPy; pip install 'ptl[eval]'") from None
    freedom, error = found.num_seeds - 1, deviation / math.sqrt(found.num_seeds)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(found.mean) / error, freedom)) if error else None
    return (found.mean - half, found.mean + half), p_value
