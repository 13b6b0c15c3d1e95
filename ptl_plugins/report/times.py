"""Where the time of the rounds went: PTL's own steps against the recovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.formats import MISSING, percent, seconds
from ptl_plugins.report.runs import Run
from ptl_plugins.round_log import RECOVER
from ptl_plugins.types import RoundRecord

ORDER = ("profile", "select", "prune", "evaluate_pruned", RECOVER, "evaluate")
EVALUATION = "evaluate"

NOTE = (
    "PTL's share: all steps but recover and the evaluations, relative to these steps and recover "
    "together; - where a step of it was not recorded."
)
RESUMED_NOTE = (
    "A round that was resumed after it was selected has no seconds of its profile and select, and "
    "of recover those of the last try alone."
)


def seconds_section(run: Run, heading: str, *, shown: bool) -> Section | None:
    """Return the table of seconds by step, or None where no round recorded any."""
    steps = steps_of(run.records)
    if not steps:
        return None
    rows = [_row(str(r.round), r.seconds, _share(r), steps) for r in run.records]
    total = {step: _sum(run.records, step) for step in steps}
    rows.append(_row("all", total, share_of_run(run), steps))
    columns = (text_column("round"), *number_columns(*steps, "total", "PTL's share"))
    table = Table(columns=columns, rows=tuple(rows))
    resumed = any(is_resumed(record) for record in run.records)
    notes = (NOTE, RESUMED_NOTE) if resumed else (NOTE,)
    return Section(heading=heading, blocks=(table,), notes=notes, in_terminal=shown)


def steps_of(records: Iterable[RoundRecord]) -> tuple[str, ...]:
    """Return the steps that were timed, in the order of the loop, unknown ones after `prune`."""
    timed = {step for record in records for step in record.seconds}
    others = sorted(timed - set(ORDER))
    return tuple(step for step in (*ORDER[:3], *others, *ORDER[3:]) if step in timed)


def ptl_share(steps: Mapping[str, float]) -> float | None:
    """Return the share of PTL's own steps in them and the recovery; evaluations are left out."""
    own = sum(value for step, value in steps.items() if _is_own(step))
    both = own + steps.get(RECOVER, 0.0)
    return own / both if RECOVER in steps and both > 0 else None


def share_of_run(run: Run) -> float | None:
    """Return PTL's share over all rounds, or None where a round does not tell."""
    if not run.rounds or any(_share(record) is None for record in run.rounds):
        return None
    return ptl_share({step: _sum(run.rounds, step) for step in steps_of(run.rounds)})


def is_resumed(record: RoundRecord) -> bool:
    """Whether the record is of a round that was resumed after it was selected."""
    return bool(record.cuts) and "profile" not in record.seconds


def _share(record: RoundRecord) -> float | None:
    return None if record.round == 0 or is_resumed(record) else ptl_share(record.seconds)


def _is_own(step: str) -> bool:
    return step != RECOVER and not step.startswith(EVALUATION)


def _sum(records: Sequence[RoundRecord], step: str) -> float:
    return sum(record.seconds.get(step, 0.0) for record in records)


def _row(
    name: str, timed: Mapping[str, float], share: float | None, steps: Sequence[str]
) -> tuple[str, ...]:
    total = seconds(sum(timed.values())) if timed else MISSING
    return (name, *(seconds(timed.get(step)) for step in steps), total, percent(share))
