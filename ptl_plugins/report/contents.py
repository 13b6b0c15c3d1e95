"""Puts a report together: which sections it has, in which order, and what the reader is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ptl_plugins.divergence import Failure
from ptl_plugins.report.comparison import comparison_section
from ptl_plugins.report.document import Document, Picture, Section
from ptl_plugins.report.facts import facts_section, recipe_section
from ptl_plugins.report.metrics import Metric, measured, metrics_of
from ptl_plugins.report.orders import order_section
from ptl_plugins.report.plots import Curve, Curves, Point
from ptl_plugins.report.recovery import recovery_section
from ptl_plugins.report.rounds import rounds_section
from ptl_plugins.report.runs import Run
from ptl_plugins.report.step_sizes import step_size_section
from ptl_plugins.report.times import seconds_section

NO_METRICS = "Nothing was measured: no record holds a metric."


def build_document(runs: Sequence[Run]) -> Document:
    """Return the report of one run, or of several side by side."""
    metrics = metrics_of(runs)
    sections = (section for section in _sections(runs, metrics) if section is not None)
    title = "Report: " + ", ".join(run.name for run in runs)
    return Document(title=title, status=tuple(_status(runs, metrics)), sections=tuple(sections))


def _sections(runs: Sequence[Run], metrics: Sequence[Metric]) -> Iterator[Section | None]:
    alone = len(runs) == 1
    if not alone:
        yield comparison_section(runs, metrics)
        yield step_size_section(runs, metrics)
        yield order_section(runs, metrics)
    for run in runs:
        of = "" if alone else f" of {run.name}"
        yield rounds_section(run, metrics_of([run]), f"Rounds{of}", shown=alone)
        yield seconds_section(run, f"Seconds{of}", shown=alone)
        yield recovery_section(run, f"Recovery time{of}", shown=alone)
    yield curves_section(runs, metrics)
    yield facts_section(runs)
    for run in runs:
        yield recipe_section(run, "Recipe" if alone else f"Recipe of {run.name}")


def curves_section(runs: Sequence[Run], metrics: Sequence[Metric]) -> Section | None:
    """Return a picture for each metric, or None where nothing was measured."""
    files = _file_names(metrics)
    pictures = tuple(
        Picture(
            file=file,
            title=f"{metric.name} over the rounds and the parameters (dashed: the original)",
            plot=Curves(metric=metric, curves=tuple(_curve(run, metric) for run in runs)),
        )
        for metric, file in zip(metrics, files, strict=True)
    )
    return Section(heading="Curves", blocks=pictures) if pictures else None


def _status(runs: Sequence[Run], metrics: Sequence[Metric]) -> Iterator[str]:
    for run in runs:
        name = "" if len(runs) == 1 else f"{run.name}: "
        if run.is_finished:
            yield f"{name}{run.progress} done."
        else:
            yield f"{name}UNFINISHED, {run.progress} done; the numbers are of these rounds."
        for failure in run.failures:
            yield f"{name}round {failure.round} diverged, and was taken in halves: {_why(failure)}"
        if run.failed is not None:
            yield f"{name}round {run.failed.round} FAILED: {_why(run.failed)}"
        if run.original is None:
            yield f"{name}the original is not recorded."
    if not metrics:
        yield NO_METRICS


def _why(failure: Failure) -> str:
    advice = f"; {failure.advice}" if failure.advice else ""
    return f"{failure.reason}{advice} (it began with {failure.last_good})"


def _curve(run: Run, metric: Metric) -> Curve:
    points = (
        Point(
            round=record.round,
            num_parameters=record.num_parameters,
            pruned=measured(metric, record.pruned, run),
            recovered=measured(metric, record.recovered, run),
        )
        for record in run.records
    )
    return Curve(run=run.label, points=tuple(points))


def _file_names(metrics: Sequence[Metric]) -> list[str]:
    """Return a file name for each metric, safe whatever a plugin called it."""
    stems = [re.sub(r"[^a-z0-9]+", "_", metric.name.lower()).strip("_") for metric in metrics]
    earlier = [stems[:index].count(stem) for index, stem in enumerate(stems)]
    return [
        f"curve_{stem}{f'-{number + 1}' if number else ''}.png"
        for stem, number in zip(stems, earlier, strict=True)
    ]
