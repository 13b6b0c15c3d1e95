"""Runs one job: its merged recipe, in a process of its own, as its door demands."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.durable import write_text
from ptl_plugins.errors import USER_ERROR_EXIT_CODE
from ptl_plugins.left_program import end_leftover
from ptl_plugins.local_launch import run_command
from ptl_plugins.manager import PLUGINS_VARIABLE
from ptl_plugins.stage_types import Command
from ptl_plugins.study.data_digests import data_digests
from ptl_plugins.study.merging import Door, recipe_text
from ptl_plugins.study.run_state import RunState, begun, ended, read_state, write_state
from ptl_plugins.study.study_types import Job
from ptl_plugins.study.weights import last_model

MODULES = {"llamafactory": ("llamafactory.cli", "train"), "run": ("ptl_plugins", "run")}
NOTE = "program.json"
"""Which program a study that was killed left behind."""
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false"}
"""Idle threads do not spin; what the user's environment says comes first."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job that is about to start."""

    job: Job
    door: Door
    keys: Mapping[str, Any]
    """The merged recipe."""
    asked: Mapping[str, Any]
    """The same with `{NAME}` as it was written."""
    plugins: Sequence[str] = ()
    """What the command line names with `-p`."""


def command_words(door: Door, recipe: Path) -> tuple[str, ...]:
    """Return the command that runs a recipe, in this interpreter."""
    return (sys.executable, "-m", *MODULES[door], str(recipe))


def _environment(plugins: Sequence[str]) -> dict[str, str]:
    """Return the variables of a program: our plugins beside the user's, and quiet threads."""
    quiet = {key: value for key, value in QUIET.items() if key not in os.environ}
    named = [os.environ.get(PLUGINS_VARIABLE, ""), *plugins]
    return {**quiet, PLUGINS_VARIABLE: ",".join(filter(None, named))}


def run_job(order: Order) -> RunState:
    """Run a job to its end and return its state, which is on the disk as well.

    What an earlier try did is taken up again; a program that a killed study left is ended first.
    """
    job = order.job
    job.folder.mkdir(parents=True, exist_ok=True)
    end_leftover(job.folder / NOTE)
    data = data_digests(order.keys, order.door)
    state = begun(read_state(job.folder), order.asked, data)
    write_text(job.recipe, recipe_text(order.keys))
    write_state(job, state)
    start = time.monotonic()
    reason = _run(order, job.folder / f"try_{state.tries}.log")
    state = ended(state, seconds=time.monotonic() - start, reason=reason)
    write_state(job, state)
    return state


def _run(order: Order, log: Path) -> str | None:
    """Run the program; return why it failed in one line, or None."""
    job = order.job
    command = Command(
        words=command_words(order.door, job.recipe.resolve()),
        folder=Path.cwd(),
        log=log,
        environment=_environment(order.plugins),
    )
    # the log has it all, and the lines of the progress stand alone
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        result = run_command(command, note=job.folder / NOTE)
    if result.exit_code:
        return _failure(result.exit_code, log)
    return None if last_model(job.run_folder) else f"it ended without a model; see {log}"


def _failure(code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.startswith("ptl: ")), None)
    if code == USER_ERROR_EXIT_CODE and said:
        return said.removeprefix("ptl: ")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"it ended with code {code}: {last[:200]}; see {log}"
