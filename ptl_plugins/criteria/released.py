"""The rule of the authors' scripts, which differs from the paper's.

They take three signals at the LAST token of each sequence, with their sign: the outputs of
`gate_proj` and `up_proj`, and the input of `down_proj`. Per sequence, layer and signal the
`top_n` smallest neurons form a set; a signal's candidates are those in the sets of ALL sequences;
a neuron is a candidate when it is one of ANY signal. On a second corpus the `top_n` largest, by
the same intersection and union, are protected.

A neuron is among the `top_n` smallest of all sequences exactly when its largest rank over the
sequences is below `top_n`. So the streaming maximum of the ranks holds the rule for every `top_n`
at once: candidates are the neurons of importance < top_n (selector `threshold`). Where the scripts
take the first of them by index, `released` takes the lowest by rank, and `released_by_index` the
first by index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Site, Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

SIGNALS: tuple[Site, ...] = ("gate", "up", "neuron")


def _rank_from_smallest(signal: torch.Tensor) -> torch.Tensor:
    """Return the largest rank over sequences, 0 = smallest: [sequences, width] to [width]."""
    import torch

    order = signal.argsort(dim=-1, stable=True) if signal.is_cuda else _sorted_on_cpu(signal)
    places = torch.arange(signal.shape[-1], device=signal.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(-1, order, places).float()  # exact, below 2^24
    return ranks.masked_fill_(signal.isnan(), torch.nan).amax(dim=0)  # a broken model has no ranks


def _sorted_on_cpu(signal: torch.Tensor) -> torch.Tensor:
    """Return the stable order of fp32 [sequences, width], twenty times faster than by argsort.

    Bits of floats, once those of negative ones are turned over, sort as whole numbers; with the
    index below them the order is stable, and numpy sorts whole numbers with vector instructions.
    """
    import numpy as np
    import torch

    bits = (signal.cpu() + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0: they are equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (ordered << 32) | torch.arange(signal.shape[-1])
    return (torch.from_numpy(np.sort(keys.numpy(), axis=-1)) & 0xFFFFFFFF).to(signal.device)


def _rank_from_largest(signal: torch.Tensor) -> torch.Tensor:
    return _rank_from_smallest(-signal)


SMALLEST = tuple(
    Statistic(name=f"{site}_last_rank_from_smallest", site=site, merge="max", tokens="last",
              measure=_rank_from_smallest)
    for site in SIGNALS
)  # fmt: skip
LARGEST = tuple(
    Statistic(name=f"{site}_last_rank_from_largest", site=site, merge="max", tokens="last",
              measure=_rank_from_largest)
    for site in SIGNALS
)  # fmt: skip


def _least_rank(scores: Scores, statistics: tuple[Statistic, ...]) -> NDArray[np.float32]:
    import numpy as np

    ranks = [scores.statistics[statistic.name] for statistic in statistics]
    least: NDArray[np.float32] = np.minimum.reduce(ranks)  # in any signal's set: a union
    return least


RELEASED = StatisticCriterion(
    unit="neuron",
    statistics=SMALLEST + LARGEST,
    formula=lambda scores: _least_rank(scores, SMALLEST),
    protects=lambda scores, top: _least_rank(scores, LARGEST) < top,
)
"""The authors' rule; the importance is the least `top_n` - 1 that makes a neuron a candidate."""


def _index(scores: Scores) -> NDArray[np.float32]:
    import numpy as np

    return np.broadcast_to(  # exact below 2^24
        np.arange(scores.width, dtype=np.float32), (scores.num_layers, scores.width)
    )


RELEASED_BY_INDEX = StatisticCriterion(
    unit="neuron",
    statistics=SMALLEST + LARGEST,
    formula=_index,
    protects=RELEASED.protects,
    candidates=lambda scores, top: _least_rank(scores, SMALLEST) < top,
)
"""The same to the letter: of the candidates of `top_n`, the first by index go, whatever their rank.

The `top` of the protect set is the `top_n` of both corpora, as in the scripts. Where they print a
warning and save layers of different widths, too few candidates are an error here.
"""
