"""Checks every job of a study before the first one starts, as `ptl validate` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.dotted_keys import dotted
from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.manager import PTLPluginManager
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.recipe_file import ask_for_recipe
from ptl_plugins.registry import Registry
from ptl_plugins.stage_check import check_stages
from ptl_plugins.study.data_digests import data_digests
from ptl_plugins.study.jobs import partner
from ptl_plugins.study.merging import MODEL_KEYS, Door, door_of, merged_keys, recipe_text
from ptl_plugins.study.run_state import is_finished, read_state
from ptl_plugins.study.study_file import StudyError
from ptl_plugins.study.study_types import Job, Study
from ptl_plugins.study.weights import last_model

FREE_KEYS = {"output_dir", "run_dir", "keep", "logging_steps", "report_to", "plot_loss"}
"""Keys that may differ from those that a finished run had: they decide no weight."""


@dataclass(frozen=True, kw_only=True)
class CheckedJob:
    """A job whose recipe was read, and held against its model."""

    job: Job
    door: Door
    is_finished: bool
    num_rounds: int
    """Of an unfinished job."""
    unchecked: tuple[str, ...] = ()
    """Why a framework's parser was not asked."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a check needs beside the job."""

    study: Study
    words: Sequence[str]
    """`KEY=VALUE` of the command line."""
    manager: PTLPluginManager
    registry: Registry
    plugins: Sequence[str] = ()
    """What the command line names with `-p`."""


def check_jobs(jobs: Sequence[Job], desk: Desk, *, starts_here: bool) -> tuple[CheckedJob, ...]:
    """Read and check the merged recipe of every job that is not finished.

    A model that another run will make is stood in for by the job's own original.

    Args:
        jobs: in the order of the study.
        desk: the study and what its recipes are checked with.
        starts_here: whether they are about to run: a framework that is not there is a problem then.

    Raises:
        PTLError: one line per problem; nothing was written.
    """
    checked: list[CheckedJob] = []
    problems: dict[str, list[str]] = {}
    for job in jobs:
        try:
            checked.append(_checked(job, desk, starts_here=starts_here))
        except PTLError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, []).append(job.run.name)
    if problems:
        lines = (_told(desk.study, line, names) for line, names in problems.items())
        raise StudyError("\n".join(lines))
    return tuple(checked)


def asked_keys(job: Job, desk: Desk) -> dict[str, Any]:
    """Return the job's merged recipe with `{NAME}` as it was written: what the study asks for."""
    return merged_keys(desk.study, job, desk.words, lambda name: Path(f"{{{name}}}"))


def real_keys(job: Job, desk: Desk) -> dict[str, Any]:
    """Return the job's merged recipe with the models of its teachers, which are finished.

    Raises:
        StudyError: a teacher's model is not there any more.
    """

    def folder_of(name: str) -> Path:
        teacher = partner(desk.study, job, name)
        if (model := last_model(teacher.run_folder)) is None:
            raise StudyError(
                f"{teacher.run_folder}: the model of {teacher.label} was deleted, and {job.label} "
                f"needs it; delete {teacher.folder} to make it again"
            )
        return model.resolve()

    return merged_keys(desk.study, job, desk.words, folder_of)


def _told(study: Study, line: str, names: Sequence[str]) -> str:
    """Return a problem with the first run that has it, and how many others do."""
    if line.startswith((f"{study.path}: ", "--set ")):
        return line
    first, *others = dict.fromkeys(names)
    more = f" and {len(others)} more" if others else ""
    return f"{study.path}: runs.{first}{more}: {line}"


def _checked(job: Job, desk: Desk, *, starts_here: bool) -> CheckedJob:
    asked = asked_keys(job, desk)
    door = door_of(asked)
    if is_finished(job):
        _require_same(job, asked)
        _require_same_data(job, asked, door)
        return CheckedJob(job=job, door=door, is_finished=True, num_rounds=0)
    keys = _stood_in(job, desk)
    path, text = job.run.recipe, recipe_text(keys)
    source = RecipeSource(path=path, keys=keys, text=text, registry=desk.registry)
    recipe = ask_for_recipe(desk.manager.hook, source)
    if recipe is None:
        raise RecipeError(f"{path}: has neither a 'ptl:' section nor the keys of 'ptl run'")
    num_rounds = len(plan_run(recipe, desk.registry).rounds)
    if door == "llamafactory":  # the framework is asked once for jobs that differ in these alone
        same = recipe_text({**keys, "output_dir": "run", "seed": 0})
        recipe = dataclasses.replace(recipe, text=same)
    unchecked = check_stages(recipe, desk.registry, starts_here=starts_here)
    return CheckedJob(
        job=job, door=door, is_finished=False, num_rounds=num_rounds, unchecked=unchecked
    )


def _stood_in(job: Job, desk: Desk) -> dict[str, Any]:
    """Return the job's keys as far as they are known before its teachers are finished."""
    teachers = [partner(desk.study, job, name) for name in job.run.teachers]
    if all(is_finished(teacher) for teacher in teachers):
        return real_keys(job, desk)
    original = Path(_original(job, desk))
    return merged_keys(desk.study, job, desk.words, lambda name: original)


def _original(job: Job, desk: Desk) -> str:
    """Return the model that a job starts from; of one that starts from another's, that one's."""
    asked = asked_keys(job, desk)
    model = str(asked.get(MODEL_KEYS[door_of(asked)], ""))
    name = model.strip("{}")
    if model == f"{{{name}}}" and name in job.run.teachers:
        return _original(partner(desk.study, job, name), desk)
    return model


def _require_same(job: Job, asked: Mapping[str, Any]) -> None:
    """Refuse a finished run of another recipe."""
    state = read_state(job.folder)
    before, now = dict(dotted(state.asked if state else {})), dict(dotted(asked))
    differing = [
        key
        for key in sorted(before.keys() | now.keys())
        if key.partition(".")[0] not in FREE_KEYS and before.get(key) != now.get(key)
    ]
    if differing:
        changes = ", ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in differing[:5])
        raise StudyError(
            f"{job.folder}: is finished with another recipe ({changes}); give the old one, delete "
            "this folder to run it again, or choose another --folder"
        )


def _require_same_data(job: Job, asked: Mapping[str, Any], door: Door) -> None:
    """Refuse a finished run that read other files than there are now; lost ones are no matter."""
    state, now = read_state(job.folder), data_digests(asked, door)
    before = state.data if state else {}
    changed = sorted(path for path in before.keys() & now.keys() if before[path] != now[path])
    if changed:
        raise StudyError(
            f"{job.folder}: is finished with other files ({', '.join(changed)} changed since); "
            "put these back, delete this folder to run it again, or choose another --folder"
        )
