"""Layer criteria: how much a layer changes the embedding (Eq. 5, 6), and mere depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import torch


def _l2_sum(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    change: torch.Tensor = (after.float() - before.float()).norm(dim=-1)
    return change.sum()


L2_SUM = Statistic(name="layer_l2_sum", site="layer", merge="sum", measure=_l2_sum)


def _mean_change(scores: Scores) -> torch.Tensor:
    return scores.statistics[L2_SUM.name] / scores.num_tokens


def _shallowness(scores: Scores) -> torch.Tensor:
    import torch

    return torch.arange(scores.num_layers, 0, -1, dtype=torch.float32)


L2 = StatisticCriterion(unit="layer", statistics=(L2_SUM,), formula=_mean_change)
"""Eq. 5: || f_l(h) - h ||_2 of a layer's output and input, per token, averaged over all tokens of
all sequences; Eq. 6 removes the layers where it is least."""

LAST = StatisticCriterion(unit="layer", statistics=(), formula=_shallowness)
"""The deepest layer goes first, whatever the data: what the authors' scripts did by hand."""
