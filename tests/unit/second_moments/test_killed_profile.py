"""A killed profile of second moments goes on and counts no batch twice."""

from __future__ import annotations

import numpy as np
import pytest

from ptl_plugins.families.llama import LLAMA
from ptl_plugins.profiling import NoJournal, profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.tally import MomentTally

from .conftest import LAYER, STATISTICS, assert_equal, batches, moments_in, run, tiny


class KilledError(Exception):
    """The process was killed."""


class MemoryJournal:
    """Keeps the totals of every `every`-th batch and of the last, and dies after batch `dies`."""

    def __init__(self, *, dies=None, every=1):
        self.kept, self.seen = {}, {}
        self.dies, self.every, self.calls, self.skipped = dies, every, 0, 0

    def restore(self, tallies):
        names = [name for tally in tallies for name in tally.totals]
        counts = {self.kept[name][1] if name in self.kept else None for name in names}
        if len(counts) != 1 or None in counts:
            return None
        for tally in tallies:
            for name, total in tally.totals.items():
                total.copy_(self.kept[name][0])
        (done,) = counts
        self.seen |= {id(tally): (tally, done) for tally in tallies}
        self.skipped += done
        return done

    def batch_done(self, done, total, tallies):
        self.calls += 1
        self.seen |= {id(tally): (tally, done) for tally in tallies}
        if done % self.every == 0 or done == total:
            rows = self.seen.values()
            self.kept = {n: (t.clone(), k) for tally, k in rows for n, t in tally.totals.items()}
        if self.calls == self.dies:
            raise KilledError

    def reborn(self):
        """Return the journal as the next process finds it."""
        again = MemoryJournal(every=self.every)
        again.kept = self.kept
        return again


def goes_on(path, whole, journal, **options):
    """Profile again with what was kept, and compare with the undisturbed profile, bit by bit."""
    again = journal.reborn()
    scores = run(path, journal=again, **options)
    assert scores.num_tokens == 35
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)
    assert_equal(moments_in(path), whole[1])
    return again


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("dies", range(1, 10))
def test_a_profile_killed_after_any_batch_goes_on(whole, tmp_path, dies, every):
    """Three batches and three groups: within a pass, at its end, and in a later group."""
    journal = MemoryJournal(dies=dies, every=every)
    with pytest.raises(KilledError):
        run(tmp_path / "m", journal=journal, memory=2 * LAYER)
    again = goes_on(tmp_path / "m", whole, journal, memory=2 * LAYER)
    assert again.calls == 9 - dies + (dies % 3 if every == 3 else dies % 3 % every)
    assert again.skipped >= 3 * (dies > 2)


def test_a_profile_that_was_killed_twice_goes_on(whole, tmp_path):
    journal = MemoryJournal()
    for dies in (2, 3):
        journal = journal.reborn()
        journal.dies = dies
        with pytest.raises(KilledError):
            run(tmp_path / "m", journal=journal, memory=LAYER)
    assert goes_on(tmp_path / "m", whole, journal, memory=LAYER).calls == 15 - 2 - 3


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_profile_killed_between_two_files_goes_on(whole, tmp_path, layers):
    """The first pass is over, and only some of its moments are written."""

    class Dying(SingleProcess):
        left = layers

        def merge(self, tensor, how):
            self.left -= 1
            if self.left < 0:
                raise KilledError

    journal = MemoryJournal()
    with pytest.raises(KilledError):
        run(tmp_path / "m", journal=journal, ranks=Dying())
    assert len(list((tmp_path / "m").iterdir())) == layers
    assert goes_on(tmp_path / "m", whole, journal).calls == 0


@pytest.mark.parametrize("dies", range(1, 6))
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 9), (2, 1), (9, 2), (3, 2)])
def test_a_profile_goes_on_with_other_memory(whole, tmp_path, dies, before, after):
    """The groups are others then, and no batch may be counted twice."""
    journal = MemoryJournal(dies=dies)
    try:
        run(tmp_path / "m", journal=journal, memory=before * LAYER)
    except KilledError:
        goes_on(tmp_path / "m", whole, journal, memory=after * LAYER)
    else:
        assert before == 9


def test_moments_that_are_on_disk_are_no_longer_in_memory(tmp_path):
    journal = MemoryJournal()
    run(tmp_path, journal=journal, memory=LAYER)
    names = {statistic.name for statistic in STATISTICS}
    assert set(journal.kept) == {*names, "counts", "4"}
    assert all(not t.totals for t, _ in journal.seen.values() if isinstance(t, MomentTally))


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_without_moments_a_killed_profile_goes_on_too(whole, dies):
    def go(journal):
        return profile(tiny(), LLAMA, batches(), STATISTICS, SingleProcess(), journal=journal)

    journal = MemoryJournal(dies=dies)
    with pytest.raises(KilledError):
        go(journal)
    again = journal.reborn()
    scores = go(again)
    assert again.calls == 3 - dies
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)


def test_no_journal_keeps_nothing():
    assert NoJournal().restore([]) is None
