"""The metrics of the records: which there are, their values, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ptl_plugins.report.formats import MISSING, number, percent
from ptl_plugins.report.intervals import interval, sample_size
from ptl_plugins.report.runs import Run
from ptl_plugins.types import EvalResult, RoundRecord

COUNT_PREFIX = "num_"
"""Metrics of this prefix are sizes of samples and no results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A result that rounds recorded."""

    name: str
    is_share: bool
    """An accuracy from 0 to 1, which is shown in percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A value, with its 95 % interval where its sample is known."""

    value: float
    interval: tuple[float, float] | None = None


def metrics_of(runs: Sequence[Run]) -> tuple[Metric, ...]:
    """Return every metric that a round of the runs recorded, by name; counts are none."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for result in results_of(run.records):
            for name, value in result.metrics.items():
                values.setdefault(name, []).append(value)
    return tuple(
        Metric(name=name, is_share=_is_share(name, values[name]))
        for name in sorted(values)
        if not is_count(name)
    )


def counts_of(run: Run) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of every size of a sample."""
    values: dict[str, list[float]] = {}
    for result in results_of(run.records):
        for name, value in result.metrics.items():
            if is_count(name):
                values.setdefault(name, []).append(value)
    return {name: (min(found), max(found)) for name, found in sorted(values.items())}


def results_of(records: Sequence[RoundRecord]) -> Iterator[EvalResult]:
    """Yield what the rounds measured, before and after recovery."""
    for record in records:
        yield from (result for result in (record.pruned, record.recovered) if result is not None)


def is_count(name: str) -> bool:
    """Whether a recorded number is the size of a sample: `num_steps`, `gsm8k_num_problems`."""
    return name.startswith(COUNT_PREFIX) or f"_{COUNT_PREFIX}" in name


def measured(metric: Metric, result: EvalResult | None, run: Run) -> Measured | None:
    """Return the metric in `result`, or None where it was not measured."""
    if result is None or metric.name not in result.metrics:
        return None
    value = result.metrics[metric.name]
    size = sample_size(metric.name, result.metrics, num_tasks=run.num_tasks)
    if not metric.is_share or size is None:
        return Measured(value=value)
    return Measured(value=value, interval=interval(value, result.metrics[size]))


def has_intervals(run: Run, metrics: Sequence[Metric]) -> bool:
    """Whether any value of the run has an interval."""
    found = (measured(metric, r, run) for metric in metrics for r in results_of(run.records))
    return any(one is not None and one.interval is not None for one in found)


def show(metric: Metric, found: Measured | None) -> str:
    """Return a value as text: 46.8% (41.0-52.7), 1.268, or - where there is none."""
    if found is None:
        return MISSING
    if not metric.is_share:
        return number(found.value)
    if found.interval is None:
        return percent(found.value)
    low, high = (f"{bound * 100:.1f}" for bound in found.interval)
    return f"{percent(found.value)} ({low}-{high})"


def show_change(metric: Metric, before: Measured | None, after: Measured | None) -> str:
    """Return how a metric changed; of a share in percentage points (pp)."""
    if before is None or after is None:
        return MISSING
    change = after.value - before.value
    return f"{change * 100:+z.1f} pp" if metric.is_share else f"{change:+z.3f}"


def _is_share(name: str, values: Sequence[float]) -> bool:
    named = name == "accuracy" or name.endswith("_accuracy")
    return named and not any(value < 0 or value > 1 for value in values)
