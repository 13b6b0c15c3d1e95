"""Runs that differ in the order of neurons and layers, in the form of the paper's Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, zip_longest

from ptl_plugins.report.comparison import is_control, label_of, last_of, original_of
from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING
from ptl_plugins.report.metrics import Metric, show
from ptl_plugins.report.runs import Run

BY_GROUPS = {
    ("neuron", "layer"): "neuron_then_layer",
    ("layer", "neuron"): "layer_then_neuron",
    ("both",): "together",
}

NOTE = (
    "Orders by the recipe's words; in Table 3 of the paper neuron_then_layer is Neu-Lay, "
    "layer_then_neuron Lay-Neu, alternating Re-Neu-Lay. original: - where the runs do not agree."
)


def order_section(runs: Sequence[Run], metrics: Sequence[Metric]) -> Section | None:
    """Return the table, or None where the runs that cut both units do so in one order.

    Its last columns are the controls, which cut nothing.
    """
    ordered = [(order, run) for run in runs if (order := order_of(run)) is not None]
    if len({order for order, _ in ordered}) < 2 or not metrics:
        return None
    controls = [run for run in runs if is_control(run)]
    headings = [f"{order} ({run.label})" for order, run in ordered]
    headings += [label_of(run) for run in controls]
    columns = (text_column("metric"), *number_columns("original", *headings))
    compared = [*(run for _, run in ordered), *controls]
    rows = tuple(_row(metric, compared) for metric in metrics)
    return Section(
        heading="Order",
        blocks=(Table(columns=columns, rows=rows),),
        notes=(NOTE,),
        in_terminal=True,
    )


def order_of(run: Run) -> str | None:
    """Return the order in which the recipe cuts neurons and layers; None: it cuts one of them."""
    units = [_unit({cut.unit for cut in spec.cuts}) for spec in run.recipe.rounds if spec.cuts]
    units = [unit for unit in units if unit != "hidden"]
    if set(units) <= {"neuron"} or set(units) <= {"layer"}:
        return None
    groups = tuple(unit for unit, _ in groupby(units))
    return BY_GROUPS.get(groups) or ("alternating" if _alternates(units) else "mixed")


def _unit(units: set[str]) -> str:
    return "both" if len(units) > 1 else units.pop()


def _alternates(units: list[str]) -> bool:
    """Whether neurons and layers take turns as long as there are both."""
    turns = [unit for unit in units if unit == units[0]]
    others = [unit for unit in units if unit != units[0]]
    merged = chain.from_iterable(zip_longest(turns, others))
    return "both" not in units and units == [unit for unit in merged if unit is not None]


def _row(metric: Metric, runs: Sequence[Run]) -> tuple[str, ...]:
    originals = {show(metric, original_of(metric, run)) for run in runs}
    original = originals.pop() if len(originals) == 1 else MISSING
    return metric.name, original, *(show(metric, last_of(metric, run)) for run in runs)
