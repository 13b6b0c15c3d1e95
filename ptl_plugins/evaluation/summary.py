"""One task's results as numbers: accuracy with its standard error, tokens, FLOPs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptl_plugins.evaluation.values import QuestionResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean with its standard error over the questions."""

    value: float
    standard_error: float
    """Sample standard deviation / sqrt(n), as lm-eval gives it; 0 for one question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """What a model reached on one task."""

    task: str
    num_questions: int
    """Those with a readable true answer: what every mean is over."""
    marks: Mapping[str, Mean]
    """By name; the first is the accuracy."""
    prompt_tokens: float
    """Mean per question asked."""
    generated_tokens: float
    flops: float | None
    """Mean per question asked, of the tokens it really used; None: family not known."""
    num_cut_off: int
    """Answers that reached the limit of new tokens."""
    statuses: Mapping[str, int]
    """How many questions ended how; `scored` is the rule."""

    @property
    def accuracy(self) -> Mean:
        """The first mark's mean."""
        return next(iter(self.marks.values()))


def summarize(task: str, marks: Sequence[str], results: Sequence[QuestionResult]) -> TaskSummary:
    """Return the numbers of a task's results.

    Args:
        task: its name.
        marks: the names of its marks, the accuracy first.
        results: one per question; those with an unreadable true answer are counted and left out.
    """
    counted = [result for result in results if result.status != "unreadable_gold"]
    asked = [result for result in counted if result.generated_tokens or result.response]
    flops = [result.flops for result in asked if result.flops is not None]
    return TaskSummary(
        task=task,
        num_questions=len(counted),
        marks={name: mean([r.marks[name] for r in counted]) for name in marks},
        prompt_tokens=_average([r.prompt_tokens for r in asked]),
        generated_tokens=_average([r.generated_tokens for r in asked]),
        flops=_average(flops) if flops else None,
        num_cut_off=sum(result.finish == "length" for result in asked),
        statuses=dict(Counter(result.status for result in results)),
    )


def metrics(summary: TaskSummary) -> dict[str, float]:
    """Return the numbers as metrics of a round, named after the task."""
    first, *others = summary.marks
    number = float(summary.num_questions)
    values = {
        f"{summary.task}_accuracy": summary.marks[first].value,
        f"{summary.task}_num_problems": number,
        f"{summary.task}_tokens": summary.prompt_tokens + summary.generated_tokens,
    }
    for name in others:
        values[f"{summary.task}_{name}_accuracy"] = summary.marks[name].value
        values[f"{summary.task}_{name}_num_problems"] = number
    if summary.flops is not None:
        values[f"{summary.task}_flops"] = summary.flops
    return values


def mean(values: Sequence[float]) -> Mean:
    """Return mean and standard error; of no value, nan."""
    if not values:
        return Mean(value=math.nan, standard_error=math.nan)
    average = _average(values)
    if len(values) == 1:
        return Mean(value=average, standard_error=0.0)
    variance = sum((value - average) ** 2 for value in values) / (len(values) - 1)
    return Mean(value=average, standard_error=math.sqrt(variance / len(values)))


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
