"""What a program may leave behind where no namespace ends with it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

PATIENCE_SECONDS = 5.0


def end_descendants() -> None:
    """Stop, then end and reap all descendants of this process, which must be their subreaper.

    Stopped ones keep their places among the allowed processes, so that a fork bomb cannot refill
    them: the search comes to an end.
    """
    limit = time.monotonic() + PATIENCE_SECONDS
    stopped: set[int] = set()
    while time.monotonic() < limit:
        found = descendants(os.getpid())
        if found == stopped:
            break
        _signal_all(found, signal.SIGSTOP)
        stopped = found
    _signal_all(descendants(os.getpid()), signal.SIGKILL)
    _reap(limit)


def descendants(ancestor: int) -> set[int]:
    """Return the living descendants of a process, as /proc shows them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (
                    (folder / "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
                )
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [ancestor]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def bytes_used(folder: Path, *, enough: int) -> int:
    """Add up the disk space below `folder`, 4 KiB at least per entry; stop counting at `enough`.

    A folder that its owner locked counts as `enough`: nobody can see what grows in it.
    """
    total = 0
    waiting = [folder]
    while waiting and total < enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(itertools.islice(entries, enough // 4096 + 1))
        except PermissionError:
            return enough
        except OSError:  # it is gone by now
            continue
        total += sum(map(_space, found))
        waiting += [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    return total


def _space(entry: os.DirEntry[str]) -> int:
    try:
        return max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
    except OSError:
        return 0


def _signal_all(processes: set[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _reap(limit: float) -> None:
    while time.monotonic() < limit:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                _signal_all(descendants(os.getpid()), signal.SIGKILL)
                time.sleep(0.002)
        except ChildProcessError:
            return
