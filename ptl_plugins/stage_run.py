"""Runs one recovery stage of `ptl run`: files, program, result."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

from ptl_plugins.divergence import require_healthy
from ptl_plugins.durable import sync_files, write_json, write_text
from ptl_plugins.errors import PTLError, RunFolderError, StageError
from ptl_plugins.recovered import take_recovered
from ptl_plugins.run_folder import MODEL
from ptl_plugins.stage_types import (
    Backend,
    Command,
    CommandResult,
    StageJob,
    StageSpec,
    StageTime,
    TrainingReporter,
)
from ptl_plugins.state_file import read_state
from ptl_plugins.step_answer import answer
from ptl_plugins.training_steps import note_steps
from ptl_plugins.types import RoundContext

DONE = "done.json"
"""In a stage's folder: its model is in place; how long its program took."""
ENDED = "ended.json"
"""In a program's result: it did all of its work, and what it wrote is on the disk; how long it
took."""
LAST_LINES = 15

logger = logging.getLogger(__name__)


def stage_folder(ctx: RoundContext, index: int) -> Path:
    """Return the folder of the round's stage `index`, which counts from 0."""
    return ctx.folder / f"stage_{index}"


def stage_model(ctx: RoundContext, index: int) -> Path:
    """Return where the stage's model goes: that of the last stage is the round's."""
    last = index == len(ctx.stages) - 1
    return ctx.folder / MODEL if last else stage_folder(ctx, index) / MODEL


def run_stage(ctx: RoundContext, index: int, model: Path) -> Path:
    """Run stage `index` on the checkpoint `model`; return its model, the same shape.

    A stage that an earlier try finished is not run again, nor a program that did its work; what
    was cut short is redone. The round's log gets the time of the try that did the work.

    Raises:
        StageError: the program failed, or its result cannot be used.
        DivergedError: its training went wrong.
    """
    folder, out = stage_folder(ctx, index), stage_model(ctx, index)
    stage = ctx.stages[index]
    if (folder / DONE).exists() and out.is_dir():
        ctx.log.note_stage(_kept_time(folder / DONE, stage.backend))
        return out
    backend = ctx.registry.backends.get(stage.backend)
    with ctx.log.timed("stage files"):
        job = backend.job(ctx, stage, model, folder)
        took = _kept_time(job.result / ENDED, stage.backend) if has_ended(job) else None
        if took is None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
            _write_files(job, folder)
    if took is None:
        took = _run_program(ctx, stage, job, folder)
    with ctx.log.timed("collect"):
        _take(ctx, backend, job, model, out)
        if job.steps is not None:
            note_steps(ctx.run, job.steps, round_index=ctx.spec.index, stage=index)
        write_json(folder / DONE, dataclasses.asdict(took))
        ctx.log.note_stage(took)
        if not ctx.recipe.keep.intermediate:
            shutil.rmtree(job.result, ignore_errors=True)
    return out


def has_ended(job: StageJob) -> bool:
    """Whether the program of an earlier try did its work, and only its result is to be taken."""
    return (job.result / ENDED).exists()


def _write_files(job: StageJob, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path, text in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def _run_program(ctx: RoundContext, stage: StageSpec, job: StageJob, folder: Path) -> StageTime:
    result: CommandResult = answer(ctx.hooks.ptl_launch(ctx=ctx, command=job.command), "ptl_launch")
    _require_success(result, stage, job.command, folder)
    seconds = round(result.seconds, 3)
    took = StageTime(backend=stage.backend, wall_seconds=seconds, devices=job.num_devices)
    if job.result.is_dir():
        sync_files(job.result)
        write_json(job.result / ENDED, dataclasses.asdict(took))
    return took


def _kept_time(path: Path, backend: str) -> StageTime:
    """Return the time that an earlier try noted; earlier versions noted the backend alone.

    That the file is there says that the work is done; of one that is damaged the time is lost.
    """
    try:
        kept = read_state(path, "the time that the stage took is lost, its result is not")
    except RunFolderError as error:
        logger.warning("PTL: %s", error)
        kept = {"backend": backend}
        write_json(path, kept)
    return StageTime(
        backend=str(kept.get("backend", backend)),
        wall_seconds=kept.get("wall_seconds"),
        devices=kept.get("devices"),
    )


def _take(ctx: RoundContext, backend: Backend, job: StageJob, model: Path, out: Path) -> None:
    """Take the program's result; one that cannot be used is no reason to take it again."""
    try:
        if isinstance(backend, TrainingReporter):
            require_healthy(ctx, backend.steps(job), job.command.log.parent)
        take_recovered(backend.collect(job), model, out)
    except PTLError:
        (job.result / ENDED).unlink(missing_ok=True)
        raise


def _require_success(
    result: CommandResult, stage: StageSpec, command: Command, folder: Path
) -> None:
    if result.exit_code == 0 and not result.timed_out:
        return
    why = f"ended with {result.exit_code} after {result.seconds:.0f} s"
    if result.exit_code < 0:
        why = f"was killed by signal {-result.exit_code} after {result.seconds:.0f} s"
    if result.timed_out:
        why = f"ran past its timeout of {command.launch.timeout:g} s"
    tail = "it wrote no log"
    if command.log.is_file():
        text = command.log.read_text(encoding="utf-8", errors="replace")
        lines = "\n".join(text.splitlines()[-LAST_LINES:])
        tail = f"its log is {command.log}, whose last lines are:\n{lines}"
    raise StageError(f"{folder}: the stage's program ('{stage.backend}') {why}; {tail}")
