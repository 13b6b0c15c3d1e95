"""The tables of one run: what each round cut and measured, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence

from ptl_plugins.amounts import show_amount
from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import number, parameters, percent, ratio
from ptl_plugins.report.metrics import Metric, counts_of, has_intervals, measured, show
from ptl_plugins.report.runs import Run
from ptl_plugins.selectors import units
from ptl_plugins.types import Cut, RoundRecord, Unit

INTERVAL_NOTE = (
    "In brackets: the Wilson 95% interval of an accuracy, in percent, as if the results of its "
    "sample were independent."
)


def rounds_section(run: Run, metrics: Sequence[Metric], heading: str, *, shown: bool) -> Section:
    """Return the table of the rounds, the original first."""
    rows = tuple(_row(run, index, metrics) for index in range(len(run.records)))
    headings = [name for metric in metrics for name in _headings(run, metric)]
    columns = (
        *number_columns("round"),
        text_column("cut"),
        *number_columns("layers", "width", "parameters", "kept", "FLOPs", *headings),
    )
    table = Table(columns=columns, rows=rows)
    return Section(heading=heading, blocks=(table,), notes=notes(run, metrics), in_terminal=shown)


def notes(run: Run, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return what a reader of the table has to know."""
    found = [
        "kept: parameters relative to the original; FLOPs: per token, relative to the original."
    ]
    if run.no_flops:
        found.append(f"FLOPs are missing: {run.no_flops}.")
    if has_intervals(run, metrics):
        found.append(INTERVAL_NOTE)
    if counts := counts_of(run):
        found.append("Measured on: " + ", ".join(_count(n, *c) for n, c in counts.items()) + ".")
    return tuple(found)


def what_was_cut(run: Run, index: int) -> str:
    """Return what the `index`-th record's round removed, as the shapes tell it."""
    record, before = run.records[index], run.records[index - 1] if index else None
    if record.round == 0:
        return "original"
    return " + ".join(_cut(cut, record, before) for cut in record.cuts) or "nothing"


def _row(run: Run, index: int, metrics: Sequence[Metric]) -> tuple[str, ...]:
    record = run.records[index]
    return (
        str(record.round),
        what_was_cut(run, index),
        str(record.num_layers),
        str(record.width),
        parameters(record.num_parameters),
        percent(kept(run, record)),
        ratio(run.flops.get(record.round)),
        *(cell for metric in metrics for cell in _cells(run, metric, record)),
    )


def kept(run: Run, record: RoundRecord | None) -> float | None:
    """Return a round's parameters relative to the original."""
    if record is None or run.original is None:
        return None
    return record.num_parameters / run.original.num_parameters


def _headings(run: Run, metric: Metric) -> list[str]:
    if _measured_before_recovery(run):
        return [f"{metric.name}\npruned", f"{metric.name}\nrecovered"]
    return [metric.name]


def _cells(run: Run, metric: Metric, record: RoundRecord) -> list[str]:
    cells = [show(metric, measured(metric, record.recovered, run))]
    if _measured_before_recovery(run):
        cells.insert(0, show(metric, measured(metric, record.pruned, run)))
    return cells


def _measured_before_recovery(run: Run) -> bool:
    return any(record.pruned is not None for record in run.records)


def _cut(cut: Cut, record: RoundRecord, before: RoundRecord | None) -> str:
    """Return a cut: how many went where the shapes tell it, else what was asked for."""
    asked = f"{cut.selector} {show_amount(cut.amount)}"
    if cut.unit == "hidden" and before and before.hidden and record.hidden:
        return f"{_directions(before.hidden, record.hidden)} by {cut.criterion}"
    same_unit = sum(other.unit == cut.unit for other in record.cuts)
    if before is None or same_unit > 1 or cut.unit == "hidden":
        return f"{units(cut.unit)} by {cut.criterion} ({asked})"
    went = _size(before, cut.unit) - _size(record, cut.unit)
    what = cut.unit if went == 1 else units(cut.unit)
    told = "" if cut.selector == "count" else f" ({asked})"
    return f"{went} {what} by {cut.criterion}{told}"


def _directions(before: int, left: int) -> str:
    gone = before - left
    return f"{gone} direction{'' if gone == 1 else 's'} ({before} -> {left})"


def _size(record: RoundRecord, unit: Unit) -> int:
    return record.width if unit == "neuron" else record.num_layers


def _count(name: str, least: float, largest: float) -> str:
    texts = [f"{value:.0f}" if value.is_integer() else number(value) for value in (least, largest)]
    return f"{name} {texts[0]}" if least == largest else f"{name} {texts[0]} to {texts[1]}"
