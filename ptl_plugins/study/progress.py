"""What a study says while it runs: which run of how many, its seconds, the time left."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ptl_plugins.study.checking import CheckedJob
from ptl_plugins.study.study_types import Job

MINUTE, HOUR = 60, 3600


class Progress:
    """Numbers the runs of a study and estimates the time left from those that are done."""

    def __init__(self, jobs: Sequence[CheckedJob], seconds: dict[str, list[float]]) -> None:
        """Take all jobs, and by name of a run the seconds of those that are finished."""
        self._numbers = {each.job.folder: at for at, each in enumerate(jobs, start=1)}
        self._left = {each.job.folder: each for each in jobs if not each.is_finished}
        self._seconds = {name: list(found) for name, found in seconds.items() if found}

    def line(self, job: Job, text: str) -> str:
        """Return a line about a job: [3/12] ptl, seed 2: ..."""
        return f"[{self._numbers[job.folder]}/{len(self._numbers)}] {job.label}: {text}"

    def done(self, job: Job, seconds: float) -> None:
        """Note that a job ended well, after so many seconds."""
        self._left.pop(job.folder, None)
        self._seconds.setdefault(job.run.name, []).append(seconds)

    def dropped(self, job: Job) -> None:
        """Note that a job is not to be waited for."""
        self._left.pop(job.folder, None)

    def left(self) -> str:
        """Return the time left as text; seeds of a run are taken to last as long as its others."""
        if not self._seconds:
            return "the time left is not known yet"
        mean = fmean(value for found in self._seconds.values() for value in found)
        names = (each.job.run.name for each in self._left.values())
        total = sum(fmean(self._seconds[n]) if n in self._seconds else mean for n in names)
        return f"about {clock(total)} left"


def clock(seconds: float) -> str:
    """Return a time as text: 45 s, 12 min, 3.4 h."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
