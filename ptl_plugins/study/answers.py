"""What the pairs of a study say in words, at the top of its page."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ptl_plugins.report.document import Section
from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.cells import difference_cell, interval_cell
from ptl_plugins.study.results import StudyResults
from ptl_plugins.study.spread import Difference, paired

LOWER_IS_BETTER = re.compile(r"(?:^|_)(?:loss|kl|perplexity|nll)$")
"""Metrics that a better model has less of; of shares it has more."""


def answer_section(results: StudyResults) -> Section | None:
    """Return a line for every pair and every metric of `primary`; None where nothing is asked."""
    lines = tuple(_lines(results))
    return Section(heading="Answers", blocks=(), notes=lines) if lines else None


def _lines(results: StudyResults) -> Iterator[str]:
    for first, second in results.study.pairs:
        for metric in results.metrics([first, second], results.study.primary):
            found = paired(results.values(first, metric), results.values(second, metric))
            if found is not None:
                told = _told(first, second, metric, found)
                yield f"{first} against {second}, {metric.name}: {told}."


def _told(first: str, second: str, metric: Metric, found: Difference) -> str:
    """Return who is ahead, as far as the interval over the seeds decides it, and the numbers."""
    seeds = f"{len(found.seeds)} seed{'' if len(found.seeds) == 1 else 's'}"
    numbers = f"{difference_cell(metric, found)}; {seeds}"
    if found.interval is None:
        return f"not decided ({numbers})"
    numbers = f"{numbers}, 95% interval {interval_cell(metric, found)}"
    low, high = found.interval
    if low <= 0 <= high or (better := _first_is_better(metric, low)) is None:
        return f"not decided ({numbers})"
    return f"{first if better else second} is ahead ({numbers})"


def _first_is_better(metric: Metric, difference: float) -> bool | None:
    """Whether a difference that is not 0 favours the first run; None: the name does not tell."""
    if metric.is_share:
        return difference > 0
    return difference < 0 if LOWER_IS_BETTER.search(metric.name) else None
