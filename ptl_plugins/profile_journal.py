"""Keeps a profile's totals on disk now and then, so that a killed profile goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ptl_plugins.signals import Tally
from ptl_plugins.tensor_file import metadata_of, save_tensors

INTERVAL = 60.0
"""Seconds between two saves, at least."""
SHARE = 0.02
"""Of the time, what saving may take."""


class FileJournal:
    """The totals of one rank in one file, with how many batches each has seen."""

    def __init__(
        self,
        path: Path,
        about: Mapping[str, str],
        *,
        interval: float = INTERVAL,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`about` says what the totals are of; `report` is told (batches done, all of them)."""
        self.path, self.about, self.report = path, dict(about), report
        self.interval = interval
        self._seen: dict[int, tuple[Tally, int]] = {}
        self._last = time.monotonic()

    def restore(self, tallies: Sequence[Tally]) -> int | None:
        """Fill the totals of `tallies` and return the batches in them; None: not kept."""
        names = {name for tally in tallies for name in tally.totals}
        done = self._kept(names)
        if done is None:
            return None
        with safe_open(os.fspath(self.path), framework="pt") as file:
            for tally in tallies:
                for name, total in tally.totals.items():
                    total.copy_(file.get_tensor(name))
        self._note(done, tallies)
        return done

    def _kept(self, names: set[str]) -> int | None:
        """Return the batches in the totals `names`; None: not whole, or of other work."""
        try:
            with safe_open(os.fspath(self.path), framework="pt") as file:
                facts = metadata_of(file)
                whole = names <= set(file.keys())
            counts = {facts["batches"].get(name) for name in names}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not whole or facts.get("about") != self.about or len(counts) != 1:
            return None
        done = counts.pop()
        return done if isinstance(done, int) else None

    def batch_done(self, done: int, total: int, tallies: Sequence[Tally]) -> None:
        """Report, and save the totals when it is time or the pass is over."""
        self._note(done, tallies)
        self.report(done, total)
        if done == total or time.monotonic() - self._last >= self.interval:
            self._save()

    def close(self) -> None:
        """Delete the file: the profile is complete."""
        self.path.unlink(missing_ok=True)

    def _note(self, done: int, tallies: Sequence[Tally]) -> None:
        self._seen |= {id(tally): (tally, done) for tally in tallies}

    def _save(self) -> None:
        start = time.monotonic()
        # totals that were put to use and cleared are no longer among them
        rows = [
            (n, t, done) for tally, done in self._seen.values() for n, t in tally.totals.items()
        ]
        facts = {"about": self.about, "batches": {name: done for name, _, done in rows}}
        totals = {name: total.cpu() for name, total, _ in rows}
        save_tensors(self.path, totals, facts)
        self._last = time.monotonic()
        self.interval = max(self.interval, (self._last - start) / SHARE)
