"""A table of a study: a row for each run, its values over the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING, duration, parameters, ratio
from ptl_plugins.report.metrics import Metric
from ptl_plugins.report.runs import Run
from ptl_plugins.study.cells import count_cell, difference_cell, spread_cell
from ptl_plugins.study.models import Axis
from ptl_plugins.study.records import SeedResult
from ptl_plugins.study.results import StudyResults, original_values, places_on
from ptl_plugins.study.spread import paired, spread
from ptl_plugins.study.study_types import RunsTable

ORIGINAL = "(original)"
TRAINED: dict[Axis, str] = {
    "documents": "documents",
    "tokens": "tokens",
    "final_tokens": "tokens at\nfinal size",
    "steps": "steps",
}
"""How much a run trained on, and the headings."""
SLACK = 0.02
"""How far the documents of a run and of its control may be apart, relative to the control's."""
HOW_TO_READ = (
    "Values are of the last round's model: the mean over the seeds that are finished, +- the "
    "sample standard deviation (none of one seed; bars in the plots). pp: percentage points.",
    "to control: the difference to the control, which trained on as many documents and cut "
    "nothing, the mean over the seeds that both have, +- the standard deviation of these "
    "differences. Training alone changes what is measured: what a cut cost shows beside the "
    "control, not beside the original. -: there is no such control.",
    "FLOPs: per token, relative to the original.",
    "documents: of the parts that the recoveries were given; tokens and steps: what they trained "
    "on, all rounds together; tokens at final size: in the rounds whose model has the size of the "
    "last; ~: a mean of seeds that differ; -: not on record.",
    "time: all steps of all rounds, the recovery included, without the programs' start.",
)


def result_section(results: StudyResults, table: RunsTable) -> Section:
    """Return the section of a table of runs."""
    metrics = results.metrics(table.runs, table.metrics)
    controls = {name: control_of(results, name) for name in table.runs}
    shown = any(controls.values())
    headings = [heading for metric in metrics for heading in _headings(metric, shown=shown)]
    columns = (
        *(text_column(heading) for heading in ("run", *(["control"] if shown else []))),
        *number_columns("seeds", "rounds", "parameters", "FLOPs", *headings, *TRAINED.values()),
        *number_columns("time"),
    )
    rows = [_row(results, name, metrics, controls[name], shown=shown) for name in table.runs]
    measured = results.finished([*table.runs, *results.study.controls])
    if original := _original_row(measured, metrics, shown=shown):
        rows.insert(0, original)
    block = Table(columns=columns, rows=tuple(rows))
    notes = tuple(_notes(results, table, metrics))
    return Section(heading=table.title, blocks=(block,), notes=notes)


def control_of(results: StudyResults, name: str) -> str | None:
    """Return the first finished control that trained on as many documents as a run, or None.

    A run whose documents nothing tells has the only control, where there is one alone.
    """
    controls = [each for each in results.study.controls if results.finished([each])]
    if name in results.study.controls:
        return None
    mine = _documents(results, name)
    if mine is None:
        return controls[0] if len(results.study.controls) == len(controls) == 1 else None
    return next((each for each in controls if _alike(mine, _documents(results, each))), None)


def _documents(results: StudyResults, name: str) -> float | None:
    places = places_on("documents", results.results[name])
    return fmean(places) if places else None


def _alike(mine: float, theirs: float | None) -> bool:
    """Whether two runs trained on as many documents, but for what equal parts leave over."""
    return theirs is None or abs(mine - theirs) <= SLACK * theirs


def _headings(metric: Metric, *, shown: bool) -> list[str]:
    return [metric.name, "to control"] if shown else [metric.name]


def _row(
    results: StudyResults,
    name: str,
    metrics: Sequence[Metric],
    control: str | None,
    *,
    shown: bool,
) -> tuple[str, ...]:
    found = results.results[name]
    runs = results.finished([name])
    return (
        name,
        *([control or MISSING] if shown else []),
        str(len(runs)) if len(runs) == len(found) else f"{len(runs)} of {len(found)}",
        count_cell([len(run.rounds) for run in runs]),
        _parameters(runs),
        _flops(runs),
        *(c for metric in metrics for c in _cells(results, name, metric, control, shown=shown)),
        *(_trained_cell(axis, found, len(runs)) for axis in TRAINED),
        _time(runs),
    )


def _cells(
    results: StudyResults, name: str, metric: Metric, control: str | None, *, shown: bool
) -> Iterator[str]:
    values = results.values(name, metric)
    yield spread_cell(metric, spread([values[seed] for seed in sorted(values)]))
    if control:
        yield difference_cell(metric, paired(values, results.values(control, metric)))
    elif shown:
        yield MISSING


def _parameters(runs: Sequence[Run]) -> str:
    sizes = [run.last.num_parameters for run in runs if run.last]
    if not sizes:
        return MISSING
    same = len(set(sizes)) == 1
    return parameters(sizes[0]) if same else f"~{parameters(round(fmean(sizes)))}"


def _flops(runs: Sequence[Run]) -> str:
    found = [run.flops.get(run.last.round) for run in runs if run.last]
    known = [value for value in found if value is not None]
    return ratio(fmean(known)) if known and len(known) == len(found) else MISSING


def _trained_cell(axis: Axis, found: Sequence[SeedResult], num_finished: int) -> str:
    places = places_on(axis, found)
    return count_cell(places) if len(places) == num_finished else MISSING


def _time(runs: Sequence[Run]) -> str:
    totals = [sum(sum(record.seconds.values()) for record in run.records) for run in runs]
    return duration(fmean(totals), fmean(totals)) if totals else MISSING


def _original_row(
    runs: Sequence[Run], metrics: Sequence[Metric], *, shown: bool
) -> tuple[str, ...] | None:
    """Return the row of the model before pruning, where all runs start from the same."""
    sizes = {run.original.num_parameters for run in runs if run.original}
    values = [original_values(runs, metric) for metric in metrics]
    if len(sizes) != 1 or any(len(found) > 1 for found in values):
        return None
    cells = [
        cell
        for metric, found in zip(metrics, values, strict=True)
        for cell in (spread_cell(metric, spread(found)), *([MISSING] if shown else []))
    ]
    empty = [MISSING] * len(TRAINED)
    head = (ORIGINAL, *([MISSING] if shown else []), MISSING, "0")
    return (*head, parameters(*sizes), ratio(1.0), *cells, *empty, MISSING)


def _notes(results: StudyResults, table: RunsTable, metrics: Sequence[Metric]) -> Iterator[str]:
    yield from table.notes
    if absent := sorted(set(table.metrics or ()) - {metric.name for metric in metrics}):
        yield f"No finished run recorded {', '.join(absent)}."
    yield from missing_notes(results, table.runs)


def missing_notes(results: StudyResults, names: Sequence[str]) -> Iterator[str]:
    """Yield what the numbers lack: runs that failed, are not finished or have not run."""
    for result in results.of(names):
        if result.missing:
            yield f"NOT in the numbers: {result.name}, seed {result.seed}: {result.missing}."
