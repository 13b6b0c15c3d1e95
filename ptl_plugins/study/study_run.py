"""Runs the jobs of a study one after the other, and leaves no more weights than it has to."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptl_plugins.errors import PTLError
from ptl_plugins.run_lock import lock_folder
from ptl_plugins.study.checking import CheckedJob, Desk, asked_keys, check_jobs, real_keys
from ptl_plugins.study.execution import Order, command_words, run_job
from ptl_plugins.study.jobs import all_jobs, chosen_jobs, needed, pupils
from ptl_plugins.study.merging import require_words
from ptl_plugins.study.progress import Progress, clock
from ptl_plugins.study.run_state import is_finished, read_state
from ptl_plugins.study.weights import delete_weights

HOUR = 3600.0
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What the command line asks for."""

    desk: Desk
    folder: Path
    only: tuple[str, ...] = ()
    """Names of runs; empty: all."""
    budget: float | None = None
    """Hours after which no further run starts; None: no end."""
    keeps_models: bool = False
    """Whether all weights stay."""


@dataclass(kw_only=True)
class Outcome:
    """How the jobs ended."""

    failed: dict[Path, str] = field(default_factory=dict)
    """By folder of a job, what to tell of it: that it failed, or that it could not start."""
    not_started: int = 0
    """Because of the budget."""


def run_study(request: StudyRequest, tell: Tell) -> Outcome:
    """Check all jobs, then run those that are not finished.

    Raises:
        PTLError: the study or a recipe is wrong, or another study works in the folder.
    """
    checked = _checked(request, starts_here=True)
    folder = request.folder
    if folder.exists() and not folder.is_dir():
        raise PTLError(f"--folder {folder}: is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        return _run_all(checked, request, tell)
    finally:
        lock.release()


def preview(request: StudyRequest, tell: Tell) -> None:
    """Check all jobs, and tell in which order they would run, and how; write nothing.

    Raises:
        PTLError: the study or a recipe is wrong.
    """
    checked = _checked(request, starts_here=False)
    for at, each in enumerate(checked, start=1):
        words = shlex.join(command_words(each.door, each.job.recipe))
        what = "is finished" if each.is_finished else f"{_rounds(each)}: {words}"
        tell(f"[{at}/{len(checked)}] {each.job.label}: {what}")


def _checked(request: StudyRequest, *, starts_here: bool) -> tuple[CheckedJob, ...]:
    study = request.desk.study
    require_words(request.desk.words)
    jobs = chosen_jobs(study, all_jobs(study, request.folder), request.only)
    return check_jobs(jobs, request.desk, starts_here=starts_here)


def _run_all(checked: Sequence[CheckedJob], request: StudyRequest, tell: Tell) -> Outcome:
    for reason in dict.fromkeys(reason for each in checked for reason in each.unchecked):
        tell(reason)
    progress, outcome = Progress(checked, _known_seconds(checked)), Outcome()
    start = time.monotonic()
    for each in checked:
        if each.is_finished:
            tell(progress.line(each.job, "is finished"))
        elif request.budget is not None and time.monotonic() - start >= request.budget * HOUR:
            outcome.not_started += 1
        elif failure := _run_one(each, request.desk, progress, tell):
            progress.dropped(each.job)
            outcome.failed[each.job.folder] = f"{each.job.label}: {failure}"
            tell(progress.line(each.job, failure))
        _tidy(request)
    return outcome


def _run_one(each: CheckedJob, desk: Desk, progress: Progress, tell: Tell) -> str | None:
    """Run a job and tell of it; return why it is not finished, or None."""
    job = each.job
    for before in needed(desk.study, job):
        if not is_finished(before):
            return f"was not started: it needs {before.label}"
    tell(progress.line(job, f"{_rounds(each)}, {progress.left()}"))
    began = time.monotonic()
    try:
        keys, asked = real_keys(job, desk), asked_keys(job, desk)
        order = Order(job=job, door=each.door, keys=keys, asked=asked, plugins=desk.plugins)
        state = run_job(order)
    except PTLError as error:
        return f"failed: {error}"
    if state.reason is not None:
        return f"failed: {state.reason}"
    took = time.monotonic() - began
    progress.done(job, took)
    tell(progress.line(job, f"finished in {clock(took)}, {progress.left()}"))
    return None


def _rounds(each: CheckedJob) -> str:
    return f"{each.num_rounds} round{'' if each.num_rounds == 1 else 's'}"


def _known_seconds(checked: Sequence[CheckedJob]) -> dict[str, list[float]]:
    known: dict[str, list[float]] = {}
    for each in checked:
        state = read_state(each.job.folder)
        if each.is_finished and state is not None:
            known.setdefault(each.job.run.name, []).append(state.seconds)
    return known


def _tidy(request: StudyRequest) -> None:
    """Delete the weights that no run needs any more, also what a killed study left to delete."""
    if request.keeps_models:
        return
    study = request.desk.study
    jobs = all_jobs(study, request.folder)
    for job in filter(is_finished, jobs):
        is_needed = not all(is_finished(pupil) for pupil in pupils(study, jobs, job))
        delete_weights(job.run_folder, keep_last=is_needed or job.run.keep == "last")
