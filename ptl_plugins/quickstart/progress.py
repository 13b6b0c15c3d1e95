"""One bar for the whole quickstart, with the time left, on a terminal or in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

LINE_EVERY_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A piece of the quickstart and the seconds it took on two cores, a weight only."""

    name: str
    seconds: float


class Progress:
    """Prints what is being done, how much of the whole is done, and the time left."""

    def __init__(self, tasks: Sequence[Task], console: Console) -> None:
        self._weights = {task.name: task.seconds for task in tasks}
        self._done = dict.fromkeys(self._weights, 0.0)
        self._counted = dict.fromkeys(self._weights, True)
        self._console = console
        self._start = time.monotonic()
        self._printed = -LINE_EVERY_SECONDS

    def skip(self, task: str) -> None:
        """Leave out a task that an earlier start already did."""
        self._counted[task] = False

    def show(self, task: str, fraction: float, text: str) -> None:
        """Set a task's fraction done; print a line when the last one is old enough."""
        self._done[task] = max(self._done[task], min(fraction, 1.0))
        now = time.monotonic() - self._start
        if now - self._printed < (1.0 if self._console.is_terminal else LINE_EVERY_SECONDS):
            return
        self._printed = now
        line = f"[{self.fraction():4.0%}] {_clock(now)} gone, {self._left(now)} left: {text}"
        self._console.print(line, highlight=False, end="\r" if self._console.is_terminal else "\n")

    def fraction(self) -> float:
        """Return how much of the whole is done, 0 to 1."""
        counted = [name for name, counts in self._counted.items() if counts]
        total = sum(self._weights[name] for name in counted)
        done = sum(self._weights[name] * self._done[name] for name in counted)
        return done / total if total else 1.0

    def _left(self, gone: float) -> str:
        done = self.fraction()
        total = sum(w for name, w in self._weights.items() if self._counted[name])
        # the reference machine's own pace until this machine has shown its own
        pace = gone / done if done > 0.05 else total
        return _clock(pace * (1 - done))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
