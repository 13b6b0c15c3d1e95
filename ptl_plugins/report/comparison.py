"""Several runs side by side, in the form of the paper's Table 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING, duration, parameters, percent, ratio
from ptl_plugins.report.metrics import Measured, Metric, measured, show, show_change
from ptl_plugins.report.recovery import device_seconds, recovery_seconds
from ptl_plugins.report.rounds import INTERVAL_NOTE, kept
from ptl_plugins.report.runs import Run

RECOVERY = ("recovery\nwall", "recovery\ndevice")
NOTES = (
    "A run's last round: its parameters, relative to the original (kept), its FLOPs per token "
    "relative to the original, its metrics; change: last minus original (pp: percentage points); "
    "recovery: wall time and device time (wall times the devices) of all recoveries together.",
    INTERVAL_NOTE + " None is claimed for a change.",
)


CONTROL = "It cuts nothing: what a cut cost shows beside it, not beside the untrained original."
NO_CONTROL = (
    "No control among them: {names} cut something. Training alone changes what is measured; add a "
    "run of the same data and rounds that cuts nothing (schedule: [{{unit: none, rounds: N}}])."
)


def comparison_section(runs: Sequence[Run], metrics: Sequence[Metric]) -> Section:
    """Return the table of the runs."""
    headings = [f"{m.name}\n{what}" for m in metrics for what in ("original", "last", "change")]
    wall = max(recovery_seconds(run) or 0.0 for run in runs)
    device = max(device_seconds(run) or 0.0 for run in runs)
    columns = (
        text_column("run"),
        *number_columns("parameters", "kept", "FLOPs", *headings, *RECOVERY),
    )
    table = Table(columns=columns, rows=tuple(_row(run, metrics, wall, device) for run in runs))
    return Section(
        heading="Runs side by side",
        blocks=(table,),
        notes=(*NOTES, control_note(runs), *caveats(runs)),
        in_terminal=True,
    )


def is_control(run: Run) -> bool:
    """Whether the recipe cuts nothing in any round: what training alone does."""
    return not any(spec.cuts for spec in run.recipe.rounds)


def label_of(run: Run) -> str:
    """Return the run's label, which tells a control."""
    return f"{run.label} (nothing cut)" if is_control(run) else run.label


def control_note(runs: Sequence[Run]) -> str:
    """Say which of the runs is the control, or that none is."""
    controls = ", ".join(run.name for run in runs if is_control(run))
    if controls:
        return f"Control: {controls}. {CONTROL}"
    return NO_CONTROL.format(names=", ".join(run.name for run in runs))


def caveats(runs: Sequence[Run]) -> Iterator[str]:
    """Yield why numbers of these runs may not be comparable."""
    for why in dict.fromkeys(run.no_flops for run in runs if run.no_flops):
        names = ", ".join(run.name for run in runs if run.no_flops == why)
        yield f"{names}: FLOPs are missing: {why}."
    shapes = {
        (run.original.num_layers, run.original.width, run.original.num_parameters)
        for run in runs
        if run.original is not None
    }
    if len(shapes) > 1:
        yield "The runs start from models of different shapes."
    if any(run.recipe.evaluation.tasks != runs[0].recipe.evaluation.tasks for run in runs):
        yield "The runs' recipes measure different tasks, or the same with other settings."


def original_of(metric: Metric, run: Run) -> Measured | None:
    """Return what the original measured."""
    return measured(metric, run.original.recovered, run) if run.original else None


def last_of(metric: Metric, run: Run) -> Measured | None:
    """Return what the last finished round measured after its recovery."""
    return measured(metric, run.last.recovered, run) if run.last else None


def _row(run: Run, metrics: Sequence[Metric], wall: float, device: float) -> tuple[str, ...]:
    return (
        label_of(run),
        parameters(run.last.num_parameters) if run.last else MISSING,
        percent(kept(run, run.last)),
        ratio(run.flops.get(run.last.round) if run.last else None),
        *(cell for metric in metrics for cell in _cells(metric, run)),
        duration(recovery_seconds(run), wall),
        duration(device_seconds(run), device),
    )


def _cells(metric: Metric, run: Run) -> tuple[str, str, str]:
    before, after = original_of(metric, run), last_of(metric, run)
    return show(metric, before), show(metric, after), show_change(metric, before, after)
