"""How far a job is, in `state.json` beside its run folder; written by the study alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pydantic

from ptl_plugins.durable import write_json
from ptl_plugins.errors import PTLError
from ptl_plugins.study.study_types import Job

STATE = "state.json"
Status = Literal["started", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What is known of a job beside its run folder."""

    status: Status
    """`started`: it runs, or was stopped before its end."""
    tries: int
    """How often it was started."""
    seconds: float
    """Of the tries that ended by themselves, with the programs' start."""
    asked: Mapping[str, Any]
    """The merged recipe that it was started with, other runs' models as `{NAME}`."""
    data: Mapping[str, str] = field(default_factory=dict)
    """What it read, by path: see `data_digests`."""
    reason: str | None = None
    """Why it failed, in one line."""


STATES = pydantic.TypeAdapter(RunState)


def read_state(folder: Path) -> RunState | None:
    """Return the state of a job's folder, or None where it was never started.

    Raises:
        PTLError: the file is damaged.
    """
    path = folder / STATE
    try:
        return STATES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, pydantic.ValidationError):
        raise PTLError(f"{path}: is damaged; delete it, the run goes on where it was") from None


def write_state(job: Job, state: RunState) -> None:
    """Write the state of a job."""
    write_json(job.folder / STATE, asdict(state))


def is_finished(job: Job) -> bool:
    """Whether a job was run to its end."""
    state = read_state(job.folder)
    return state is not None and state.status == "finished"


def begun(before: RunState | None, asked: Mapping[str, Any], data: Mapping[str, str]) -> RunState:
    """Return the state of a job that is started, once more or for the first time."""
    tries, seconds = (before.tries, before.seconds) if before else (0, 0.0)
    return RunState(status="started", tries=tries + 1, seconds=seconds, asked=asked, data=data)


def ended(state: RunState, *, seconds: float, reason: str | None) -> RunState:
    """Return the state of a job whose program ended: finished, or failed for `reason`."""
    status: Status = "finished" if reason is None else "failed"
    total = round(state.seconds + seconds, 1)
    return replace(state, status=status, seconds=total, reason=reason)
