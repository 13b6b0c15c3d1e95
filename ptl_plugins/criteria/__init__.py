"""Criteria: statistics gathered in one pass, and importances made of them.

A statistic is a streaming sum or maximum over tokens, so memory does not grow with the number
of sequences, and ranks merge theirs by the same operation. A criterion names the statistics it
needs and turns them into one importance per neuron or per layer: the least important go first.
Statistics are measured with torch; importances are numpy's, so that choosing needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ptl_plugins.components import Criterion
from ptl_plugins.types import Scores, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

DEFAULT_CRITERION = {"neuron": "output_change", "layer": "l2", "hidden": "slicegpt"}
"""What was measured to hurt least, with the refit; the paper's neuron rule is `activation_max`."""

Site = Literal["neuron", "gate", "up", "layer", "weight", "gradient"]
BACKWARD: Site = "gradient"
"""The site that takes a backward pass; the others take the forward pass, or none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One number per neuron or, of site `layer`, per layer; merged over batches and ranks.

    What `measure` takes, always in fp32 whatever the model's dtype, and what it returns in fp32:

    | site | takes | returns |
    | --- | --- | --- |
    | `neuron` | the input of the FFN's output matrix, [tokens, width] | [width] |
    | `gate`, `up` | the outputs of the FFN's first, last input matrix, [tokens, width] | [width] |
    | `layer` | the hidden states before and after a layer, [tokens, hidden] each | a scalar |
    | `weight` | the FFN's output matrix, [hidden, width], once | [width] |
    | `gradient` | what `neuron` takes, and the loss's gradient by it, the same shape | [width] |

    The tokens come in pieces, at least one each; padding is out already.
    """

    name: str
    site: Site
    merge: Literal["sum", "max"]
    measure: Callable[..., torch.Tensor]
    tokens: Literal["all", "last"] = "all"
    """`last`: only the last token of each sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticCriterion:
    """A criterion that is a function of the statistics of one profiling pass."""

    unit: Unit
    statistics: tuple[Statistic, ...]
    formula: Callable[[Scores], NDArray[np.float32]]
    protects: Callable[[Scores, int], NDArray[np.bool_]] | None = None
    """A rule of its own for the protect set: (scores of the second corpus, top) to
    [layers, width]; None: the `top` most important."""
    candidates: Callable[[Scores, int], NDArray[np.bool_]] | None = None
    """A rule for the neurons that may go at all: (scores, top) to [layers, width]; it needs a
    protect set, whose `top` it takes. None: all that are not protected."""

    def importance(self, scores: Scores) -> NDArray[np.float32]:
        """Return [layers, width] for neurons or [layers] for layers."""
        return self.formula(scores)


def needed_statistics(criteria: Iterable[Criterion]) -> tuple[Statistic, ...]:
    """Return the statistics that `criteria` need, each once."""
    return tuple(dict.fromkeys(s for criterion in criteria for s in criterion.statistics))


def forward_statistics(statistics: Iterable[Statistic]) -> tuple[Statistic, ...]:
    """Return those of `statistics` that take no backward pass."""
    return tuple(statistic for statistic in statistics if statistic.site != BACKWARD)
