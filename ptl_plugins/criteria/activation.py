"""Neuron criteria from Act = act(W_gate x) * (W_up x) of Eq. 3, the input of `down_proj`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def _abs_max(act: torch.Tensor) -> torch.Tensor:
    return act.abs().amax(dim=0)


def _abs_sum(act: torch.Tensor) -> torch.Tensor:
    return act.abs().sum(dim=0)


def _square_sum(act: torch.Tensor) -> torch.Tensor:
    return act.square().sum(dim=0)


ABS_MAX = Statistic(name="neuron_abs_max", site="neuron", merge="max", measure=_abs_max)
ABS_SUM = Statistic(name="neuron_abs_sum", site="neuron", merge="sum", measure=_abs_sum)
SQUARE_SUM = Statistic(name="neuron_square_sum", site="neuron", merge="sum", measure=_square_sum)


def act_max(scores: Scores) -> NDArray[np.float32]:
    """Return max |Act| over all tokens, [layers, width]."""
    return scores.statistics[ABS_MAX.name]


def act_mean(scores: Scores) -> NDArray[np.float32]:
    """Return the mean of |Act| over all tokens, [layers, width]."""
    import numpy as np

    return scores.statistics[ABS_SUM.name] / np.float32(scores.num_tokens)


def act_rms(scores: Scores) -> NDArray[np.float32]:
    """Return the root of the mean of Act^2 over all tokens, [layers, width]."""
    import numpy as np

    mean_square = scores.statistics[SQUARE_SUM.name] / np.float32(scores.num_tokens)
    rms: NDArray[np.float32] = np.sqrt(mean_square)
    return rms


ACTIVATION_MAX = StatisticCriterion(unit="neuron", statistics=(ABS_MAX,), formula=act_max)
"""Eq. 4: a neuron is redundant when |Act| <= sigma for all x, so its importance is the maximum
of |Act| over all tokens of all sequences. The paper's rule."""

ACTIVATION_MEAN = StatisticCriterion(unit="neuron", statistics=(ABS_SUM,), formula=act_mean)
"""The mean of |Act| over all tokens: less swayed by single tokens than the maximum."""

ACTIVATION_RMS = StatisticCriterion(unit="neuron", statistics=(SQUARE_SUM,), formula=act_rms)
"""The root mean square of Act over all tokens: between the mean and the maximum."""
