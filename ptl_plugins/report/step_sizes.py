"""Runs that differ in how much a round cuts: the paper's Fig. 4 as bars and a table."""

from __future__ import annotations

from collections.abc import Sequence

from ptl_plugins.amounts import show_amount
from ptl_plugins.report.comparison import is_control, label_of, last_of, original_of
from ptl_plugins.report.document import Block, Picture, Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING, parameters, percent
from ptl_plugins.report.metrics import Metric, show
from ptl_plugins.report.plots import Bar, Bars, Panel
from ptl_plugins.report.rounds import kept
from ptl_plugins.report.runs import Run
from ptl_plugins.selectors import FLOPS, PARAMETERS, units
from ptl_plugins.types import Cut

TARGETS = (PARAMETERS.name, FLOPS.name)
"""Selectors whose amount is what is left: the step follows from the number of rounds."""

TITLE = "What the last round measured, by step size (dashed: the original)"

NOTE = (
    "Step: parameters that a round which cuts removed, on average, relative to the original. The "
    "runs are comparable where about as much is kept."
)


def step_size_section(runs: Sequence[Run], metrics: Sequence[Metric]) -> Section | None:
    """Return bars and table, or None where no two of the runs that cut differ in the amount.

    The table ends with the controls, which cut nothing.
    """
    cutting = sorted((run for run in runs if steps_of(run)), key=_by_step)
    if len({steps_of(run) for run in cutting}) < 2:
        return None
    headings = [metric.name for metric in metrics]
    columns = (
        text_column("run"),
        text_column("a round cuts"),
        *number_columns("rounds", "step", "kept", *headings),
    )
    controls = [run for run in runs if is_control(run)]
    rows = tuple(_row(run, metrics) for run in (*cutting, *controls))
    blocks: list[Block] = [Table(columns=columns, rows=rows)]
    if metrics:
        plot = step_size_bars(cutting, metrics)
        blocks.append(Picture(file="step_size.png", title=TITLE, plot=plot))
    return Section(heading="Step size", blocks=tuple(blocks), notes=(NOTE,), in_terminal=True)


def steps_of(run: Run) -> frozenset[tuple[str, str, float, int]]:
    """Return the different steps of the recipe; two runs with the same ones do not differ."""
    cuts = [cut for spec in run.recipe.rounds for cut in spec.cuts]
    return frozenset(_step(cut, cuts) for cut in cuts)


def step_share(run: Run) -> float | None:
    """Return what a round that cut removed on average, relative to the original's parameters."""
    number, left = sum(bool(record.cuts) for record in run.rounds), kept(run, run.last)
    return (1 - left) / number if number and left is not None else None


def step_size_bars(runs: Sequence[Run], metrics: Sequence[Metric]) -> Bars:
    """Return a panel for each metric with a bar for each run."""
    panels = (
        Panel(
            metric=metric,
            bars=tuple(
                Bar(label=_label(run), original=original_of(metric, run), last=last_of(metric, run))
                for run in runs
            ),
        )
        for metric in metrics
    )
    return Bars(axis="parameters cut by a round; parameters left", panels=tuple(panels))


def _step(cut: Cut, cuts: Sequence[Cut]) -> tuple[str, str, float, int]:
    """Return unit, selector, amount and, with a target, in how many rounds it is reached."""
    key = (cut.unit, cut.selector, cut.amount)
    same = (c.rounds_left for c in cuts if (c.unit, c.selector, c.amount) == key)
    return (*key, max(same) if cut.selector in TARGETS else 0)


def _by_step(run: Run) -> tuple[float, str]:
    return step_share(run) or 0.0, run.name


def _row(run: Run, metrics: Sequence[Metric]) -> tuple[str, ...]:
    return (
        label_of(run),
        _amounts(run) or MISSING,
        str(sum(bool(record.cuts) for record in run.rounds)),
        percent(step_share(run)),
        percent(kept(run, run.last)),
        *(show(metric, last_of(metric, run)) for metric in metrics),
    )


def _amounts(run: Run) -> str:
    """Return the recipe's amounts, each once, in the order of the rounds."""
    cuts = (cut for spec in run.recipe.rounds for cut in spec.cuts)
    return ", ".join(dict.fromkeys(_amount(cut) for cut in cuts))


def _amount(cut: Cut) -> str:
    if cut.selector == "count":
        return f"{show_amount(cut.amount)} {cut.unit if cut.amount == 1 else units(cut.unit)}"
    return f"{units(cut.unit)}, {cut.selector} {show_amount(cut.amount)}"


def _label(run: Run) -> str:
    left = parameters(run.last.num_parameters) if run.last else MISSING
    return f"{run.label}\n{percent(step_share(run))}; {left}"
