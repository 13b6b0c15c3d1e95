"""Watches one running program until it ends or must be ended."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ptl_plugins.code_execution.harness import STARTED
from ptl_plugins.code_execution.leftovers import bytes_used
from ptl_plugins.code_execution.limits import Limits

START_SECONDS = 20.0
"""Patience for the interpreter to start, on a busy machine too."""
LOOK_SECONDS = 0.05
"""Between two looks at the size of the folder."""
MAX_SAID = 4096

Stop = Literal["", "time", "disk", "talk", "abandoned"]
"""Why the watcher ended the program; empty if it ended by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What the watcher saw."""

    stop: Stop
    said: bytes
    """What came on the result descriptor, not much more than `MAX_SAID` bytes."""
    exit_code: int
    """As `subprocess` gives it: below zero is a signal."""
    cpu_seconds: float
    seconds: float
    """From the first statement on; 0 if it was never reached."""

    @property
    def started(self) -> bool:
        """Whether the program's first statement was reached."""
        return self.said.startswith(STARTED)


def watch(
    process: int, *, results: int, lifeline: int, limits: Limits, folder: Path | None
) -> Watched:
    """Wait for a child process, end it when it goes too far, and reap it.

    Args:
        process: the child.
        results: the end of the result pipe to read from.
        lifeline: a pipe that closes when PTL is gone.
        limits: for the wall time and, with `folder`, the disk.
        folder: where the program writes, if no file system of its own bounds it.
    """
    watcher = _Watcher(results=results, lifeline=lifeline, limits=limits, folder=folder)
    handle = os.pidfd_open(process)
    watcher.follow(handle)
    ended = time.monotonic()
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    return Watched(
        stop=watcher.stop,
        said=watcher.said,
        exit_code=os.waitstatus_to_exitcode(status),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        seconds=ended - watcher.began if watcher.said else 0.0,
    )


@dataclass(kw_only=True)
class _Watcher:
    results: int
    lifeline: int
    limits: Limits
    folder: Path | None
    said: bytes = b""
    stop: Stop = ""
    began: float = field(default_factory=time.monotonic)
    """When the process was made, then when the first statement was reached."""

    def follow(self, handle: int) -> None:
        """Return when the process has ended, or when there is a reason to end it."""
        poller = select.poll()
        for descriptor in (self.results, self.lifeline, handle):
            poller.register(descriptor, select.POLLIN)
        while not self.stop:
            ready = {descriptor for descriptor, _ in poller.poll(self._pause() * 1000)}
            if self.results in ready and not self._listen():
                poller.unregister(self.results)
            if handle in ready:
                return
            if not self.stop:
                self.stop = self._reason_to_stop(ready)

    def _pause(self) -> float:
        left = max(0.0, self._deadline() - time.monotonic())
        return min(left, LOOK_SECONDS) if self.folder else left

    def _deadline(self) -> float:
        return self.began + (self.limits.wall_seconds if self.said else START_SECONDS)

    def _listen(self) -> bool:
        """Take what there is, tell whether more can come."""
        heard = os.read(self.results, MAX_SAID)
        if heard and not self.said:
            self.began = time.monotonic()
        self.said += heard
        if len(self.said) > MAX_SAID:
            self.stop = "talk"
        return bool(heard)

    def _reason_to_stop(self, ready: set[int]) -> Stop:
        if self.lifeline in ready:
            return "abandoned"
        if time.monotonic() >= self._deadline():
            return "time"
        disk = self.limits.disk
        if self.folder and bytes_used(self.folder, enough=disk) >= disk:
            return "disk"
        return ""
