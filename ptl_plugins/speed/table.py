"""A speed report as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from ptl_plugins.speed.machine import Snapshot
from ptl_plugins.speed.report import Comparison, SpeedReport

HEADINGS = ("measure", "model", "baseline", "speedup", "95 % interval", "tokens")


def lines(report: SpeedReport) -> list[str]:
    """Return the report for a terminal: table, bound, machine, notes and the caveat."""
    rows = [HEADINGS, *(cells(one) for one in report.comparisons)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    table = [
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [_title(report), *table, *_below(report)]


def cells(one: Comparison) -> tuple[str, ...]:
    """Return a measure's row."""
    same = one.tokens == one.baseline_tokens
    return (
        one.name,
        f"{one.seconds:.4g} s/{one.unit}",
        f"{one.baseline_seconds:.4g} s/{one.unit}",
        f"{one.speedup:.2f}x",
        f"{one.low:.2f}-{one.high:.2f} ({one.num_pairs} pairs)",
        f"{one.tokens:g}" if same else f"{one.tokens:.1f} against {one.baseline_tokens:.1f}",
    )


def bound(report: SpeedReport) -> str:
    """Return what the weights allow at batch 1, beside what decoding reached."""
    found = report.weights
    text = (
        f"weights read per token: {found.model_bytes / 1e6:.1f} MB, baseline "
        f"{found.baseline_bytes / 1e6:.1f} MB: at most {found.ratio:.2f}x at batch 1 where memory "
        "decides"
    )
    decode = report.comparison("decode")
    return text if decode is None else f"{text}; decode reached {decode.speedup:.2f}x"


def _title(report: SpeedReport) -> str:
    threads = report.machine.threads
    return (
        f"{report.model.name} against {report.baseline.name}: protocol {report.protocol.name}, "
        f"{report.backend} on {report.machine.device}, {report.model.dtype}, attention "
        f"{report.model.attention}, {threads} thread{'s' * (threads != 1)}"
    )


def _below(report: SpeedReport) -> Iterator[str]:
    yield bound(report)
    start, end = report.machine.start, report.machine.end
    yield f"machine at the start: {_state(start)}; at the end: {_state(end)}"
    for note in report.notes:
        yield f"note: {note}"
    if report.protocol.caveat:
        yield f"caveat: {report.protocol.caveat}"


def _state(snapshot: Snapshot) -> str:
    found = (
        ("load", snapshot.load_average, ""),
        ("CPU", snapshot.cpu_mhz, " MHz"),
        ("accelerator", snapshot.accelerator_mhz, " MHz"),
    )
    told = [f"{name} {value:g}{unit}" for name, value, unit in found if value is not None]
    return ", ".join(told) or "unknown"
