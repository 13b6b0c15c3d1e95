"""Neuron criteria by what the FFN's output loses: Eq. 2 without the simplification of Eq. 3.

Without neuron N the FFN's output changes by Act_N times column N of `down_proj`, so
|| FFN(x) - FFN_without_N(x) ||_2 = |Act_N(x)| * || W_down[:, N] ||_2 exactly. (Gemma's norm after
the FFN comes later and is left out, as in Eq. 3.) The equation is per token; the criteria differ
in how tokens are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.criteria.activation import (
    ABS_MAX,
    ABS_SUM,
    SQUARE_SUM,
    act_max,
    act_mean,
    act_rms,
)
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def _column_norm(weight: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = weight.norm(dim=0)
    return norms


COLUMN_NORM = Statistic(name="neuron_column_norm", site="weight", merge="max", measure=_column_norm)


def _by_column(
    activation: Callable[[Scores], NDArray[np.float32]], statistic: Statistic
) -> StatisticCriterion:
    return StatisticCriterion(
        unit="neuron",
        statistics=(statistic, COLUMN_NORM),
        formula=lambda scores: activation(scores) * scores.statistics[COLUMN_NORM.name],
    )


OUTPUT_CHANGE = _by_column(act_rms, SQUARE_SUM)
"""Eq. 2, root mean square over all tokens: PTL's default."""

OUTPUT_CHANGE_MEAN = _by_column(act_mean, ABS_SUM)
"""Eq. 2, mean over all tokens."""

OUTPUT_CHANGE_MAX = _by_column(act_max, ABS_MAX)
"""Eq. 2 with the "for all x" of Eq. 4: the maximum over all tokens."""
