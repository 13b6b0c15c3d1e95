"""Runs a stage's program on this machine, and never leaves it behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from ptl_plugins.left_program import GRACE, end_leftover, note_program
from ptl_plugins.markers import hookimpl
from ptl_plugins.redacted_stream import RedactedStream
from ptl_plugins.registry import Registry
from ptl_plugins.stage_types import Command, CommandResult, LaunchSpec, StageSpec
from ptl_plugins.termination import terminating
from ptl_plugins.types import RoundContext, Subject

NAME, NOTE = "local", "local_program.json"


class Local:
    """The launcher `local`: it has no settings of its own."""

    def check(self, launch: LaunchSpec) -> str | None:
        """Return what is wrong with the stage's `launch` in one line, or None."""
        for key in launch.options:
            return f"options.{key}: unknown key; the launcher 'local' has no options"
        return None

    def preview(self, command: Command) -> str:
        """Return the shell's line that does the same."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in command.environment.items()]
        return " ".join([*settings, shlex.join(command.words)])


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the launcher."""
    registry.launchers.add(NAME, Local())


@hookimpl(wrapper=True)
def ptl_recover(
    ctx: RoundContext, stage: StageSpec, subject: Subject
) -> Generator[None, Subject | None, Subject | None]:
    """End the program that a killed run left behind, before the files of its stage go."""
    end_leftover(ctx.folder / NOTE)
    return (yield)


@hookimpl(trylast=True)
def ptl_launch(ctx: RoundContext, command: Command) -> CommandResult | None:
    """Start the program in a process group of its own, and wait; its output goes to the log."""
    if command.launch.launcher != NAME:
        return None
    return run_command(command, note=ctx.folder / NOTE)


def run_command(command: Command, note: Path | None = None) -> CommandResult:
    """Run `command`; its output goes to its log and to this process's stderr.

    On SIGINT, SIGTERM or a time-out the whole process group is stopped first. While it runs,
    `note` tells whom a later run has to stop if this process is killed.
    """
    start = time.monotonic()
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("wb", buffering=0) as log, terminating():
        if note is not None:
            note_program(note, command)
        child = subprocess.Popen(
            command.words,
            cwd=command.folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdout is not None
        copier = threading.Thread(target=_copy, args=(child.stdout, log))
        timed_out = False
        try:
            if note is not None:
                note_program(note, command, child.pid)
            copier.start()
            child.wait(command.launch.timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _stop(child)
            if copier.ident is not None:
                copier.join()
            child.stdout.close()
            if note is not None:
                note.unlink(missing_ok=True)
    return CommandResult(
        exit_code=child.returncode, seconds=time.monotonic() - start, timed_out=timed_out
    )


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    stream = RedactedStream()
    while chunk := os.read(source.fileno(), 65536):
        _show(stream.feed(chunk), log)
    _show(stream.rest(), log)


def _show(chunk: bytes, log: IO[bytes]) -> None:
    """Write to the log and to stderr; one that cannot be written to must not stop the reading.

    The program would wait for ever on its full pipe.
    """
    with contextlib.suppress(OSError):
        log.write(chunk)
    with contextlib.suppress(OSError):
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the child's process group: torchrun's workers, data loaders.

    A second interrupt meanwhile is in a hurry, and SIGKILL comes at once.
    """
    if not _signal_group(child, signal.SIGTERM):
        child.wait()
        return
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
            time.sleep(0.1)  # a moment for the workers, which are not ours to wait for
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Send a signal to the child's process group; return whether there is one left."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    return True
