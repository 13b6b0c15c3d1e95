"""Runs a stage's program as a job of Slurm: writes a batch script, submits it, waits."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ptl_plugins import slurm_job
from ptl_plugins.durable import write_json, write_text
from ptl_plugins.errors import StageError
from ptl_plugins.markers import hookimpl
from ptl_plugins.registry import Registry
from ptl_plugins.secret_values import redacted
from ptl_plugins.slurm_options import option_problem
from ptl_plugins.stage_types import Command, CommandResult, LaunchSpec, StageSpec
from ptl_plugins.termination import terminating
from ptl_plugins.types import RoundContext, Subject

NAME = "slurm"
SCRIPT, NOTE = "stage.sbatch", "slurm_job.json"


class Slurm:
    """The launcher `slurm`: its options are the long ones of sbatch, without the dashes."""

    def check(self, launch: LaunchSpec) -> str | None:
        """Return what is wrong with the stage's `launch`, a line per problem, or None."""
        problems = (option_problem(str(key), value) for key, value in launch.options.items())
        return "\n".join(f"options.{line}" for line in problems if line) or None

    def preview(self, command: Command) -> str:
        """Return the line that submits, and the batch script."""
        return f"{shlex.join(_sbatch(command))}\n{script_text(command)}"


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the launcher."""
    registry.launchers.add(NAME, Slurm())


@hookimpl(wrapper=True)
def ptl_recover(
    ctx: RoundContext, stage: StageSpec, subject: Subject
) -> Generator[None, Subject | None, Subject | None]:
    """End the job that a killed run left behind, before the files of its stage are replaced."""
    slurm_job.end_leftover(ctx.folder / NOTE)
    return (yield)


@hookimpl(trylast=True)
def ptl_launch(ctx: RoundContext, command: Command) -> CommandResult | None:
    """Submit the program and wait; whatever ends the waiting early cancels the job."""
    if command.launch.launcher != NAME:
        return None
    note = ctx.folder / NOTE
    slurm_job.require_programs()
    slurm_job.end_leftover(note)
    command.log.parent.mkdir(parents=True, exist_ok=True)
    write_text(command.log.with_name(SCRIPT), script_text(command))
    with terminating():
        try:
            with ThreadPoolExecutor(1) as thread:  # a signal must not part the job from its note
                job = thread.submit(_submit, command, note).result()
            return _follow(command, job, note)
        except BaseException:
            with contextlib.suppress(StageError):  # the note stays, for the next try
                slurm_job.cancel(note)
            raise


def script_text(command: Command) -> str:
    """Return the batch script: the stage's options, its environment, its program."""
    name = "-".join(command.log.resolve().parent.parts[-3:])
    given = command.launch.options
    # a job that starts anew would meet the files of its first start
    once = {} if given.get("requeue") else {"no-requeue": True}
    options = {"job-name": f"ptl-{name}", **once, **given}
    lines = [f"--{key}" + ("" if value is True else f"={shlex.quote(str(value))}")
             for key, value in options.items() if value is not False]  # fmt: skip
    exports = [f"export {key}={shlex.quote(text)}" for key, text in command.environment.items()]
    head = ["#!/bin/bash", *(f"#SBATCH {line}" for line in lines)]
    return "\n".join([*head, *exports, f"exec {shlex.join(command.words)}"]) + "\n"


def _sbatch(command: Command) -> list[str]:
    """Return the line; what stands on it wins over variables like SBATCH_OUTPUT."""
    log = str(command.log.resolve()).replace("%", "%%")  # sbatch would fill in %j and others
    places = [f"--chdir={command.folder.resolve()}", f"--output={log}", "--open-mode=append"]
    return ["sbatch", "--parsable", *places, str(command.log.with_name(SCRIPT).resolve())]


def _submit(command: Command, note: Path) -> str:
    answer = slurm_job.call(*_sbatch(command))
    job = (answer.stdout.split() or [""])[-1].partition(";")[0]
    if answer.returncode != 0 or not job.isdecimal():
        said = " ".join((answer.stderr + answer.stdout).split())
        raise StageError(f"{command.log.with_name(SCRIPT)}: sbatch did not take it: {said}")
    write_json(note, {"job": job, "log": str(command.log)})
    return job


def _follow(command: Command, job: str, note: Path) -> CommandResult:
    """Wait for the job's end; its time-out counts from where it was first seen to run."""
    shown, start, runs, timed_out = 0, time.monotonic(), False, False
    limit = command.launch.timeout or float("inf")
    for state, line in slurm_job.looks(job):
        if state == "RUNNING" and not runs:
            start, runs = time.monotonic(), True
        if timed_out := runs and state not in slurm_job.ENDED and time.monotonic() - start > limit:
            state, line = slurm_job.cancel(note)
        shown = _show(command.log, shown)
        if timed_out:
            break
    if state != "COMPLETED":  # the last lines of the log are what the stage's error shows
        with command.log.open("a", encoding="utf-8") as log:
            log.write(f"Slurm job {job} ended as {line} (state|exit code:signal)\n")
    if not timed_out:
        note.unlink()
    code = -signal.SIGTERM if timed_out else slurm_job.exit_code(state, line)
    return CommandResult(exit_code=code, seconds=time.monotonic() - start, timed_out=timed_out)


def _show(log: Path, shown: int) -> int:
    """Copy what is new in the log to stderr; return how many bytes of it were shown."""
    if not log.exists():
        return shown
    with log.open("rb") as stream:
        stream.seek(shown)
        text = stream.read()
    sys.stderr.write(redacted(text.decode(errors="replace")))
    sys.stderr.flush()
    return shown + len(text)
