"""Wanda's score of weights, put together per neuron.

Wanda (Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models",
ICLR 2024) scores weight W_ij of a matrix by |W_ij| * || X_j ||_2, where X_j is the matrix's input j
over all tokens. A neuron is input j of `down_proj`: its importance is the sum over the column,

    importance_j = sum over i of |W_ij| * || X_j ||_2 / sqrt(T) = || W[:, j] ||_1 * rms(Act_j)

(root mean square over the T tokens, so that it does not grow with their number; a constant factor
changes no choice). The structured variant Wanda-sp of An, Zhao, Yu, Tang, Wang, "Fluctuation-based
Adaptive Structured Pruning for Large Language Models", AAAI 2024, takes the mean over the column
instead of the sum: the same order.

`output_change` is || W[:, j] ||_2 * rms(Act_j), exactly what the FFN's output loses (Eq. 2). The
two differ in the norm of the column alone, L1 or L2. The L1 norm is between 1 and sqrt(hidden size)
times the L2 norm: least for a column with a single large weight, most for one of equally large
weights. So of two neurons that change the output equally much, Wanda removes the one that writes
into fewer dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.criteria.activation import SQUARE_SUM, act_rms
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def _column_sum(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().sum(dim=0)


COLUMN_SUM = Statistic(
    name="neuron_column_abs_sum", site="weight", merge="max", measure=_column_sum
)


def _score(scores: Scores) -> NDArray[np.float32]:
    return act_rms(scores) * scores.statistics[COLUMN_SUM.name]


WANDA_STRUCTURED = StatisticCriterion(
    unit="neuron", statistics=(SQUARE_SUM, COLUMN_SUM), formula=_score
)
"""|activation| x |weight|, summed over the neuron's column of `down_proj`."""
