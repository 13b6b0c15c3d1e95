"""One pass that gathers every statistic, and second moments for a refit (Eq. 3 to 6).

It is a forward pass; a statistic of gradients adds a backward pass to each batch.

Second moments take [width, width] fp32 a layer. Where they do not all fit, the layers are taken
in groups, one pass each; the first pass gathers the statistics as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from ptl_plugins.calibration import Batch
from ptl_plugins.criteria import Statistic
from ptl_plugins.families import Family
from ptl_plugins.ranks import Ranks
from ptl_plugins.second_moments import MomentFolder, layer_groups
from ptl_plugins.signals import Tally, run_batches
from ptl_plugins.tally import MomentTally, StatisticTally
from ptl_plugins.types import Scores


class Journal(Protocol):
    """Keeps what a pass has gathered, so that a profile that is cut short can go on."""

    def restore(self, tallies: Sequence[Tally]) -> int | None:
        """Fill the totals of `tallies` and return the batches in them; None: not kept."""
        ...

    def batch_done(self, done: int, total: int, tallies: Sequence[Tally]) -> None:
        """Take note of a batch, and now and then of the totals."""
        ...


class NoJournal:
    """Keeps nothing: every pass starts anew."""

    def restore(self, tallies: Sequence[Tally]) -> int | None:
        """Return None."""
        return None

    def batch_done(self, done: int, total: int, tallies: Sequence[Tally]) -> None:
        """Do nothing."""


def profile(
    model: PreTrainedModel,
    family: Family,
    batches: Sequence[Batch],
    statistics: Sequence[Statistic],
    ranks: Ranks,
    *,
    moments: MomentFolder | None = None,
    memory: int | None = None,
    journal: Journal = NoJournal(),  # noqa: B008  # it has no state
) -> Scores:
    """Run `batches` through the decoder and return the statistics of all ranks together.

    Args:
        model: a live model on its device, in any float dtype.
        family: its facts.
        batches: this rank's share; padding may be left or right, under mask 0.
        statistics: what to gather; where that takes no forward pass, none is run.
        ranks: whose statistics are merged; every rank returns the same.
        moments: where second moments go, of the layers that are not there yet; None: not wanted.
        memory: bytes that second moments may take; None: a share of what is free.
        journal: what keeps the totals meanwhile.
    """
    tally = StatisticTally(model, family, statistics)
    groups = layer_groups(model, family, ranks, moments, memory) if moments else []
    first: list[Tally] = [tally] if any(s.site != "weight" for s in statistics) else []
    for group in groups or [range(0)]:
        moment = MomentTally(model, family, group) if group else None
        tallies = [*first, moment] if moment else first
        done = journal.restore(tallies) if tallies else None
        if done is None and moment and (kept := journal.restore(first) if first else None):
            _run(model, family, batches, first, journal, kept)  # most often they are complete
            tallies = [moment]
            done = journal.restore(tallies)
        if tallies:
            _run(model, family, batches, tallies, journal, done or 0)
        if moment and moments:
            moment.complete()
            moments.write(moment.totals, ranks)
            moment.totals.clear()  # the next group needs the memory
        first = []
    return tally.scores(ranks)


def _run(
    model: PreTrainedModel,
    family: Family,
    batches: Sequence[Batch],
    tallies: Sequence[Tally],
    journal: Journal,
    skip: int,
) -> None:
    run_batches(
        model,
        family,
        batches,
        tallies,
        skip=skip,
        after_batch=lambda done: journal.batch_done(done, len(batches), tallies),
    )
