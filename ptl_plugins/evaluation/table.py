"""The tables that `ptl eval` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from ptl_plugins.evaluation.comparison import Answers, Compared
from ptl_plugins.evaluation.pairing import Pairing
from ptl_plugins.evaluation.summary import Mean, TaskSummary

COLUMNS = (
    ("task", "left"),
    ("model", "left"),
    ("questions", "right"),
    ("accuracy", "right"),
    ("tokens a question:\nprompt + answer", "right"),
    ("FLOPs\na question", "right"),
)


def accuracy_table(compared: Sequence[Compared]) -> Table:
    """Return a row per task and model: marks with standard errors, tokens and FLOPs."""
    table = Table()
    for heading, side in COLUMNS:
        folds = heading == "model"  # the one that may be long
        table.add_column(heading, justify=side, no_wrap=not folds, overflow="fold")  # type: ignore[arg-type]
    for task in compared:
        for answers in filter(None, (task.answers, task.baseline)):
            table.add_row(*_row(answers))
    return table


def notes(compared: Sequence[Compared]) -> Iterator[str]:
    """Yield what the table has no room for: other marks, comparisons, what went wrong."""
    for task in compared:
        for pairing in task.pairings:
            yield f"{task.task}: {_compared(pairing)}"
        for answers in filter(None, (task.answers, task.baseline)):
            yield from (f"{task.task}: {answers.model}: {note}" for note in _odd(answers.summary))
            if answers.num_kept:
                yield (
                    f"{task.task}: {answers.model}: asked earlier and kept: {answers.num_kept}; "
                    "--fresh asks again"
                )


def _row(answers: Answers) -> tuple[str, ...]:
    found = answers.summary
    marks = "\n".join(f"{name} {show(mean)}" for name, mean in found.marks.items())
    return (
        found.task,
        answers.model,
        str(found.num_questions),
        marks,
        f"{found.prompt_tokens:.0f} + {found.generated_tokens:.0f}",
        "-" if found.flops is None else f"{found.flops:.4g}",
    )


def show(mean: Mean) -> str:
    """Return a share with its standard error: 34.0 +- 1.3 %."""
    return f"{mean.value * 100:.1f} +- {mean.standard_error * 100:.1f} %"


def _compared(pairing: Pairing) -> str:
    low, high = (bound * 100 for bound in pairing.interval)
    return (
        f"{pairing.mark}: {pairing.difference * 100:+.1f} points against the baseline, 95 % "
        f"interval {low:+.1f} to {high:+.1f} (paired bootstrap); right: both {pairing.both}, only "
        f"the model {pairing.only_model}, only the baseline {pairing.only_baseline}, neither "
        f"{pairing.neither}; McNemar p = {pairing.p_value:.3g}"
    )


def _odd(summary: TaskSummary) -> Iterator[str]:
    """Yield the ends that are not the rule."""
    meanings = {
        "empty": "answered with nothing, wrong",
        "too_long": "prompt does not fit the model, wrong",
        "timed_out": "answer took too long to judge, wrong",
        "failed": "could not be judged, wrong",
        "unreadable_gold": "question or true answer cannot be read, left out",
    }
    for status, meaning in meanings.items():
        if number := summary.statuses.get(status):
            yield f"{meaning}: {number} of {sum(summary.statuses.values())}"
    if summary.num_cut_off:
        yield f"cut off at the limit of new tokens: {summary.num_cut_off}"
