"""Neuron criteria from Act = act(W_gate x) * (W_up x) of Eq. 3, the input of `down_proj`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import torch


def _abs_max(act: torch.Tensor) -> torch.Tensor:
    return act.abs().amax(dim=0).float()


def _abs_sum(act: torch.Tensor) -> torch.Tensor:
    return act.float().abs().sum(dim=0)


ABS_MAX = Statistic(name="neuron_abs_max", site="neuron", merge="max", measure=_abs_max)
ABS_SUM = Statistic(name="neuron_abs_sum", site="neuron", merge="sum", measure=_abs_sum)


def _mean(scores: Scores) -> torch.Tensor:
    return scores.statistics[ABS_SUM.name] / scores.num_tokens


ACTIVATION_MAX = StatisticCriterion(
    unit="neuron",
    statistics=(ABS_MAX,),
    formula=lambda scores: scores.statistics[ABS_MAX.name],
)
"""Eq. 4: a neuron is redundant when |Act| <= sigma for all x, so its importance is the maximum
of |Act| over all tokens of all sequences. The paper's rule."""

ACTIVATION_MEAN = StatisticCriterion(unit="neuron", statistics=(ABS_SUM,), formula=_mean)
"""The mean of |Act| over all tokens: less swayed by single tokens than the maximum."""
