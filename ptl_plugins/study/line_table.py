"""A plot of a study with its numbers: lines whose points are runs, or the rounds of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.cells import spread_cell
from ptl_plugins.study.line_plot import Line, LinePlot, LinePoint
from ptl_plugins.study.result_table import missing_notes
from ptl_plugins.study.results import StudyResults, places_on
from ptl_plugins.study.spread import spread
from ptl_plugins.study.study_file import file_stem
from ptl_plugins.study.study_types import LinesTable

AXES = {
    "documents": "documents of all recoveries",
    "tokens": "tokens of all recoveries",
    "final_tokens": "tokens at the final size",
    "steps": "optimizer steps of all recoveries",
    "parameters": "parameters of the last model",
    "rounds": "rounds",
    "round": "round (0: the original)",
}


@dataclass(frozen=True, kw_only=True)
class LinePicture:
    """A plot and the file it is written to."""

    file: str
    title: str
    plot: LinePlot


@dataclass(frozen=True, kw_only=True)
class LineSection:
    """A table of numbers, and the pictures of the same."""

    section: Section
    pictures: tuple[LinePicture, ...]


def line_section(results: StudyResults, table: LinesTable) -> LineSection:
    """Return the section of a table of lines, and its pictures."""
    names = [name for runs in table.lines.values() for name in runs]
    metrics = results.metrics(names, table.metrics)
    plots = [_plot(results, table, metric) for metric in metrics]
    columns = (
        *(text_column(heading) for heading in ("line", "run", "metric")),
        *number_columns(table.x, "seeds", "value"),
    )
    rows = tuple(row for plot in plots for row in _rows(plot))
    notes = [*table.notes]
    if absent := sorted(set(table.metrics or ()) - {metric.name for metric in metrics}):
        notes.append(f"No finished run recorded {', '.join(absent)}.")
    notes += [*_unplaced(results, table), *missing_notes(results, names)]
    section = Section(
        heading=table.title, blocks=(Table(columns=columns, rows=rows),), notes=tuple(notes)
    )
    pictures = tuple(_picture(table, plot) for plot in plots)
    return LineSection(section=section, pictures=pictures)


def _plot(results: StudyResults, table: LinesTable, metric: Metric) -> LinePlot:
    lines = tuple(
        Line(name=name, points=tuple(_points(results, table, runs, metric)))
        for name, runs in table.lines.items()
    )
    return LinePlot(metric=metric, axis=AXES[table.x], lines=lines)


def _points(
    results: StudyResults, table: LinesTable, runs: Sequence[str], metric: Metric
) -> Iterator[LinePoint]:
    """Return the points of a line; of runs from left to right."""
    if table.x == "round":
        return _round_points(results, runs[0], metric)
    points = (_run_point(results, table, name, metric) for name in runs)
    return iter(sorted((p for p in points if p is not None), key=lambda point: point.x))


def _round_points(results: StudyResults, name: str, metric: Metric) -> Iterator[LinePoint]:
    last = max((len(run.rounds) for run in results.finished([name])), default=-1)
    for index in range(last + 1):
        values = results.values_after(name, metric, index)
        if found := spread([values[seed] for seed in sorted(values)]):
            yield LinePoint(run=name, x=index, found=found)


def _run_point(
    results: StudyResults, table: LinesTable, name: str, metric: Metric
) -> LinePoint | None:
    places, values = places_on(table.x, results.results[name]), results.values(name, metric)
    found = spread([values[seed] for seed in sorted(values)])
    if not places or found is None:
        return None
    return LinePoint(run=name, x=fmean(places), found=found)


def _unplaced(results: StudyResults, table: LinesTable) -> Iterator[str]:
    for name in dict.fromkeys(name for runs in table.lines.values() for name in runs):
        if results.finished([name]) and not places_on(table.x, results.results[name]):
            yield f"NOT shown: {name}: its {table.x} are not on record."


def _rows(plot: LinePlot) -> Iterator[tuple[str, ...]]:
    for line in plot.lines:
        for point in line.points:
            value = spread_cell(plot.metric, point.found)
            seeds = str(point.found.num_seeds)
            yield (line.name, point.run, plot.metric.name, f"{point.x:,.0f}", seeds, value)


def _picture(table: LinesTable, plot: LinePlot) -> LinePicture:
    stem = file_stem(f"{table.title} {plot.metric.name}")
    return LinePicture(file=f"{stem}.png", title=f"{plot.metric.name} over {plot.axis}", plot=plot)
