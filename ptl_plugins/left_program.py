"""Ends the program that a killed run left behind; its note tells which one that is."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ptl_plugins.durable import write_json
from ptl_plugins.errors import StageError
from ptl_plugins.stage_types import Command

GRACE = 10.0
"""Seconds between asking a program to stop and killing it."""
CLOCK_ERROR = 1.0
"""Seconds by which a process's start may seem to move; no number is given anew within it."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


def note_program(note: Path, command: Command, pid: int | None = None) -> None:
    """Write down the program that is about to start, and then the session that it leads.

    A run that is killed between the two leaves a program that its words and folder tell. Times are
    seconds after the machine's start, as its clock may be set.
    """
    started = _now() if pid is None else _start_of(psutil.Process(pid))
    facts = {"pid": pid, "started": started, "boot": _boot(), "host": socket.gethostname()}
    write_json(note, {**facts, "words": [*command.words], "folder": str(command.folder.resolve())})


def end_leftover(note: Path) -> None:
    """Stop every process of the session that `note` tells of, then delete the note.

    Raises:
        StageError: one of them does not end.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(note.read_text(encoding="utf-8"))
        if facts["host"] != socket.gethostname():
            logger.warning("PTL: %s: its program may still run on %s", note, facts["host"])
        elif facts["boot"] == _boot():
            started = float(facts["started"])
            pid = facts["pid"]
            for leader in [(int(pid), started)] if pid else _started(facts):
                _end(note, *leader)
    note.unlink(missing_ok=True)


def _started(facts: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return the sessions whose leader runs a program; a script's interpreter comes first."""
    words, found = facts["words"], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                _belongs(process, process.pid, facts["started"])
                and process.cmdline()[-len(words) :][1:] == words[1:]
                and process.cwd() == facts["folder"]
            ):
                found.append((process.pid, _start_of(process)))
    return found


def _boot() -> str:
    """Return what tells this start of the machine from others; empty where nothing does."""
    return BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else ""


def _now() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - psutil.boot_time()


def _start_of(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


def _end(note: Path, leader: int, started: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        members = _members(leader, started)
        if members:
            logger.warning("PTL: %s: stopping pid %d, which a killed run left", note, leader)
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + GRACE
        while _members(leader, started) and time.monotonic() < deadline:
            time.sleep(0.05)
    if left := _members(leader, started):
        raise StageError(
            f"{note}: pid {left[0].pid}, which a killed run left, does not end; end it by hand, "
            "then give the same command again"
        )


def _members(leader: int, started: float) -> list[Any]:
    """Return the living processes of a session; none where its number is another's by now.

    The system gives no number anew that a session still bears, its leader alive or not.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(_start_of(psutil.Process(leader)) - started) > CLOCK_ERROR:
            return []
    return [process for process in psutil.process_iter() if _belongs(process, leader, started)]


def _belongs(process: psutil.Process, leader: int, started: float) -> bool:
    try:
        return (
            os.getsid(process.pid) == leader
            and _start_of(process) >= started - CLOCK_ERROR
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (OSError, psutil.Error):  # it ended meanwhile, or is another user's
        return False
