"""Layer criteria: how much a layer changes the embedding (Eq. 5, 6), and mere depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def _l2_sum(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    change: torch.Tensor = (after - before).norm(dim=-1)
    return change.sum()


def _turn_sum(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import cosine_similarity

    return (1 - cosine_similarity(before, after, dim=-1)).sum()


L2_SUM = Statistic(name="layer_l2_sum", site="layer", merge="sum", measure=_l2_sum)
TURN_SUM = Statistic(name="layer_turn_sum", site="layer", merge="sum", measure=_turn_sum)


def _mean(statistic: Statistic) -> Callable[[Scores], NDArray[np.float32]]:
    def formula(scores: Scores) -> NDArray[np.float32]:
        import numpy as np

        return scores.statistics[statistic.name] / np.float32(scores.num_tokens)

    return formula


def _shallowness(scores: Scores) -> NDArray[np.float32]:
    import numpy as np

    return np.arange(scores.num_layers, 0, -1, dtype=np.float32)


L2 = StatisticCriterion(unit="layer", statistics=(L2_SUM,), formula=_mean(L2_SUM))
"""Eq. 5: || f_l(h) - h ||_2 of a layer's output and input, per token, averaged over all tokens of
all sequences; Eq. 6 removes the layers where it is least."""

BLOCK_INFLUENCE = StatisticCriterion(unit="layer", statistics=(TURN_SUM,), formula=_mean(TURN_SUM))
"""ShortGPT's: 1 - cosine of a layer's input and output, per token, averaged over all tokens."""

LAST = StatisticCriterion(unit="layer", statistics=(), formula=_shallowness)
"""The deepest layer goes first, whatever the data: what the authors' scripts did by hand."""
