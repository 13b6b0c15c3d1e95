"""`ptl study --record`: what tells the results, without weights, texts or a machine's paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.durable import new_folder, write_json, write_text
from ptl_plugins.errors import PTLError
from ptl_plugins.model_config import config_path
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.report.runs import read_runs
from ptl_plugins.run_folder import MANIFEST, PLAN, RECORD
from ptl_plugins.study.checking import Desk
from ptl_plugins.study.jobs import all_jobs
from ptl_plugins.study.merging import recipe_text
from ptl_plugins.study.portable import Places, places
from ptl_plugins.study.records import OUTCOME, RECIPE, RecordedOutcome
from ptl_plugins.study.run_state import RunState, read_state
from ptl_plugins.study.study_types import Job
from ptl_plugins.study.training_facts import trainings_of
from ptl_plugins.study.weights import CONFIG

MAX_PLAN_BYTES = 4096
"""A longer plan lists thousands of neurons; its digest is in the record."""
LEFT_OUT = ("recipe_text", "recipe_file")
"""Facts of the manifest that `recipe.yaml` holds."""


def record_study(desk: Desk, folder: Path, target: Path, tell: Callable[[str], None]) -> None:
    """Copy the records of every job that was started to `target/NAME/seed_K`.

    What `target` holds of jobs that were not started in `folder` stays.

    Raises:
        PTLError: nothing was started there, a file is damaged, or `target` cannot be written.
    """
    jobs = all_jobs(desk.study, folder)
    states = [(job, state) for job in jobs if (state := read_state(job.folder))]
    if not states:
        raise PTLError(
            f"--folder {folder}: no run of {desk.study.path} was started there; nothing to record"
        )
    where = places(desk.study.path, folder)
    try:
        for job, state in states:
            with new_folder(target / job.run.name / job.folder.name) as place:
                _record(job, state, place, where, desk)
    except OSError as error:
        raise PTLError(f"--record {target}: cannot be written ({error.strerror})") from error
    tell(f"{target}: recorded {len(states)} of {len(jobs)} runs")


def _record(job: Job, state: RunState, place: Path, where: Places, desk: Desk) -> None:
    """Write what tells one job's results into a new folder."""
    facts: dict[str, Any] = {
        "status": state.status,
        "tries": state.tries,
        "seconds": state.seconds,
        "data": {where.text(path): digest for path, digest in state.data.items()},
        "reason": where.text(state.reason) if state.reason else None,
    }
    write_text(place / RECIPE, recipe_text(where.portable(_keys(job))))
    if (job.run_folder / MANIFEST).is_file():
        facts["trainings"] = _trainings(job, desk)
        _copy_run(job, place, where)
    write_json(place / OUTCOME, asdict(RecordedOutcome(**facts)))


def _keys(job: Job) -> dict[str, Any]:
    keys: dict[str, Any] = yaml.safe_load(job.recipe.read_text(encoding="utf-8"))
    return keys


def _trainings(job: Job, desk: Desk) -> list[dict[str, Any]]:
    (run,) = read_runs([job.run_folder], desk.registry)
    found = trainings_of(job.run_folder, run.manifest, len(run.rounds), _weights(job, desk))
    return [asdict(training) for training in found]


def _weights(job: Job, desk: Desk) -> Sequence[int]:
    """Return how the run shared its corpus, or nothing where that cannot be known any more."""
    try:
        recipe = read_recipe(job.recipe, desk.manager.hook, desk.registry, thorough=False)
        return plan_run(recipe, desk.registry).weights
    except PTLError:  # the model is not on this machine any more
        return ()


def _copy_run(job: Job, place: Path, where: Places) -> None:
    manifest = json.loads((job.run_folder / MANIFEST).read_text(encoding="utf-8"))
    kept = {key: value for key, value in manifest.items() if key not in LEFT_OUT}
    write_json(place / MANIFEST, where.portable(kept))
    if config := _config(job, str(manifest["recipe"]["model"])):
        _copy(config, place / CONFIG, where)
    for record in sorted(job.run_folder.glob(f"round_*/{RECORD}")):
        folder = place / record.parent.name
        folder.mkdir()
        _copy(record, folder / RECORD, where)
        plan = record.with_name(PLAN)
        if plan.is_file() and plan.stat().st_size <= MAX_PLAN_BYTES:
            _copy(plan, folder / PLAN, where)


def _config(job: Job, model: str) -> Path | None:
    """Return a config with the original's sizes, which make FLOPs of the recorded shapes."""
    try:
        return config_path(model)
    except PTLError:  # the original is not on this machine any more
        return next(iter(sorted(job.run_folder.glob(f"**/{CONFIG}"))), None)


def _copy(source: Path, target: Path, where: Places) -> None:
    value = json.loads(source.read_text(encoding="utf-8"))
    write_json(target, where.portable(value))
