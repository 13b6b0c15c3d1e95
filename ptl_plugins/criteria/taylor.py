"""The neuron criterion that asks the loss: first-order Taylor, |gradient x activation|.

Were neuron N silent at token t alone, the loss L of the sequence would change by
Act_N(t) * dL/dAct_N(t), to first order in Act_N(t). The importance is the mean of its absolute
value over all tokens of all sequences:

    importance_N = 1/T * sum over t of | Act_N(t) * dL/dAct_N(t) |

Act is the input of `down_proj` (Eq. 3), L the next-token loss of the sequence in nats, summed over
its tokens; the gradient is of everything that token t's activation leads to, later tokens included.
The absolute value is taken per token, before the mean, so tokens that a neuron helps and tokens
that it hurts do not cancel. (The gradient of the weights does let them: sum over t of
Act_N(t) * dL/dAct_N(t) is the scalar product of column N of `down_proj` with its own gradient.)

References: Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for
Resource Efficient Inference", ICLR 2017 (|gradient x activation| of a feature map); Molchanov,
Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019 (squares
of gradient x weight, or of gradient x gate); Ma, Fang, Wang, "LLM-Pruner", NeurIPS 2023
(|gradient x weight| of coupled structures).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.criteria import Statistic, StatisticCriterion
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def _abs_product_sum(act: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return (act * gradient).abs_().sum(dim=0)


TAYLOR_SUM = Statistic(
    name="neuron_taylor_sum", site="gradient", merge="sum", measure=_abs_product_sum
)


def _mean(scores: Scores) -> NDArray[np.float32]:
    import numpy as np

    return scores.statistics[TAYLOR_SUM.name] / np.float32(scores.num_tokens)


TAYLOR = StatisticCriterion(unit="neuron", statistics=(TAYLOR_SUM,), formula=_mean)
"""The mean of |gradient x activation| over all tokens; it takes a backward pass."""
