"""How long the recoveries took: wall and device time of every stage, from the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING, duration
from ptl_plugins.report.runs import Run
from ptl_plugins.report.times import is_resumed
from ptl_plugins.round_log import RECOVER
from ptl_plugins.types import RoundRecord

NOTE = (
    "wall: of the stage's program, without the wait in a queue; device: wall times the devices, "
    "the processes that trained. A stage that was finished before the run was stopped keeps its "
    "time; tries that were cut short are not counted."
)
NO_STAGE, ALL_STAGES = "none", "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLine:
    """One line of the table: a stage of a round, or the round where its stages are not known."""

    round: int
    stage: str
    """From 0 in the round, as its folder; `none`, `all` together, or a dash."""
    backend: str = MISSING
    devices: int | None = None
    wall: float | None = None
    """Seconds; None: not on record."""
    device: float | None = None
    """Seconds times devices; None: not on record."""


def recovery_section(run: Run, heading: str, *, shown: bool) -> Section | None:
    """Return the table of the stages, or None where no finished round has one."""
    lines = stage_lines(run)
    if all(line.stage == NO_STAGE for line in lines):
        return None
    wall, device = recovery_seconds(run), device_seconds(run)
    longest = (_longest(line.wall for line in lines), _longest(line.device for line in lines))
    rows = [_row(line, *longest) for line in lines]
    rows.append(("all", "", "", "", duration(wall, longest[0]), duration(device, longest[1])))
    columns = (
        *number_columns("round", "stage"),
        text_column("backend"),
        *number_columns("devices", "wall", "device"),
    )
    table = Table(columns=columns, rows=tuple(rows))
    return Section(
        heading=heading, blocks=(table,), notes=tuple(_notes(run, lines)), in_terminal=shown
    )


def stage_lines(run: Run) -> tuple[StageLine, ...]:
    """Return the lines of all finished rounds."""
    return tuple(line for record in run.rounds for line in _lines(run, record))


def recovery_seconds(run: Run) -> float | None:
    """Return the wall seconds of all recoveries, or None where a round does not tell."""
    return _total(line.wall for line in stage_lines(run))


def device_seconds(run: Run) -> float | None:
    """Return the device seconds of all recoveries, or None where a round does not tell."""
    return _total(line.device for line in stage_lines(run))


def _lines(run: Run, record: RoundRecord) -> Iterator[StageLine]:
    for index, took in enumerate(record.stages):
        yield StageLine(
            round=record.round,
            stage=str(index),
            backend=took.backend,
            devices=took.devices,
            wall=took.wall_seconds,
            device=took.device_seconds,
        )
    if not record.stages:
        yield _without_stages(run, record)


def _without_stages(run: Run, record: RoundRecord) -> StageLine:
    """Return the line of a round whose record names no stage: it has none, or is an old one."""
    planned = [stage.backend for stage in run.recipe.stages if stage.is_in(record.round)]
    if not planned and RECOVER not in record.seconds:
        return StageLine(round=record.round, stage=NO_STAGE, wall=0.0, device=0.0)
    return StageLine(
        round=record.round,
        stage=ALL_STAGES,
        backend=", ".join(dict.fromkeys(planned)) or MISSING,
        wall=record.seconds.get(RECOVER),
    )


def _notes(run: Run, lines: Iterable[StageLine]) -> Iterator[str]:
    yield NOTE
    if not run.is_finished:
        yield f"The run is not finished: {run.progress} are in it."
    for what, why in (
        ([line for line in lines if line.stage == NO_STAGE], "no recovery stage"),
        ([line for line in lines if line.wall is None], "wall time is not on record"),
        ([line for line in lines if line.device is None], "device time is not on record"),
    ):
        if what:
            yield f"{_rounds(line.round for line in what)}: {why}."
    together = {line.round for line in lines if line.stage == ALL_STAGES}
    if resumed := [r.round for r in run.rounds if r.round in together and is_resumed(r)]:
        yield (
            f"{_rounds(resumed)}: resumed; a stage that was finished before that is not in its "
            "wall time."
        )


def _rounds(numbers: Iterable[int]) -> str:
    """Return rounds as text, several in a row as first and last: rounds 1, 3-5."""
    ends: list[list[int]] = []
    for number in dict.fromkeys(numbers):
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ends]
    return f"round{'' if texts == [str(ends[0][0])] else 's'} {', '.join(texts)}"


def _total(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return sum(v for v in found if v is not None) if found and None not in found else None


def _longest(values: Iterable[float | None]) -> float:
    """Return the sum of what is known, which no value of the column exceeds."""
    return sum(value or 0.0 for value in values)


def _row(line: StageLine, wall: float, device: float) -> tuple[str, ...]:
    return (
        str(line.round),
        line.stage,
        line.backend,
        MISSING if line.devices is None else str(line.devices),
        duration(line.wall, wall),
        duration(line.device, device),
    )
