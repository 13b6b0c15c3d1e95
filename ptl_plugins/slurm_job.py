"""One job of Slurm, by its own programs: its state, its end, and that none is left behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.errors import StageError

PROGRAMS = ("sbatch", "sacct", "scancel", "squeue")
POLL = 10.0
"""Seconds between two looks at the job."""
MISSES = 90
"""Looks in a row at which sacct may know nothing of the job, or fail."""
CANCEL_WAIT = 120.0
"""Seconds within which a cancelled job has to be gone."""
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL",
         "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT")  # fmt: skip


def require_programs() -> None:
    """Refuse a machine that cannot submit.

    Raises:
        StageError: one of Slurm's programs is not there.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise StageError(
            f"launcher 'slurm': no {', '.join(missing)} on PATH; start ptl run on a machine that "
            "submits jobs, or choose the launcher 'local'"
        )


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs, out of reach of Ctrl-C, and return what it said."""
    return subprocess.run(
        words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
        start_new_session=True, check=False,
    )  # fmt: skip


def look(job: str) -> tuple[str, str]:
    """Return the job's state and sacct's line; where it knows none, '' and what it said."""
    answer = call("sacct", "-j", job, "-X", "-n", "-P", "-o", "State,ExitCode")
    lines = answer.stdout.strip().splitlines()
    if answer.returncode != 0 or not lines:
        return "", " ".join(answer.stderr.split()) or "sacct knows no such job"
    return re.split(r"[ |]", lines[-1])[0], lines[-1]


def looks(job: str) -> Iterator[tuple[str, str]]:
    """Yield what `look` returns, until the job has ended.

    Raises:
        StageError: nothing could be learnt of it for a long time.
    """
    misses, state = 0, ""
    while state not in ENDED:
        state, line = look(job)
        yield state, line
        misses = 0 if state else misses + 1
        if misses >= MISSES:
            raise StageError(f"Slurm job {job}: {MISSES} looks told nothing of it: {line}")
        if state not in ENDED:
            time.sleep(POLL)


def exit_code(state: str, line: str) -> int:
    """Return the exit code in sacct's `state|code:signal`: negative for a signal.

    Slurm says 0:0 of a job that it ended; that is 1 here.
    """
    code, _, number = line.rpartition("|")[2].partition(":")
    if number.isdecimal() and int(number):
        return -int(number)
    return int(code) or int(state != "COMPLETED")


def cancel(note: Path) -> tuple[str, str]:
    """Cancel the job that the note names and wait until it is gone; return what `look` does.

    sacct calls a job cancelled while its processes may have half a minute left; squeue shows it.
    """
    if not note.exists():
        return "", "no job"
    job = json.loads(note.read_text(encoding="utf-8"))["job"]
    if look(job)[0] not in ENDED:
        call("scancel", job)
    end = time.monotonic() + CANCEL_WAIT
    while True:
        state, line = look(job)
        if state in ENDED and not call("squeue", "-h", "-j", job, "-o", "%T").stdout.strip():
            note.unlink()
            return state, line
        if time.monotonic() > end:
            return "", f"still there after {CANCEL_WAIT:.0f} s: {line}"
        time.sleep(min(POLL, 1.0))


def end_leftover(note: Path) -> None:
    """End the job that a killed run left behind, if there is one.

    Raises:
        StageError: it does not end.
    """
    if note.exists():
        require_programs()
        state, why = cancel(note)
        if state not in ENDED:
            raise StageError(
                f"{note}: the Slurm job of an earlier try is {why}; see that it ends "
                "(scancel), delete this file, and start again"
            )
