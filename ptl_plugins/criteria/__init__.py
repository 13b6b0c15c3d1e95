"""Criteria: statistics gathered in one forward pass, and importances made of them.

A statistic is a streaming sum or maximum over tokens, so memory does not grow with the number
of sequences, and ranks merge theirs by the same operation. A criterion names the statistics it
needs and turns them into one importance per neuron or per layer: the least important go first.
The functions here only call tensor methods; torch itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ptl_plugins.types import Criterion, Scores, Unit

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One number per neuron (site `neuron`) or per layer (site `layer`), merged over batches.

    `measure` takes, for `neuron`, the input of the FFN's output matrix as [tokens, width] and
    returns fp32 [width]; for `layer`, the hidden states before and after a layer as
    [tokens, hidden] and returns an fp32 scalar. Padding is already taken out; tokens >= 1.
    """

    name: str
    site: Literal["neuron", "layer"]
    merge: Literal["sum", "max"]
    measure: Callable[..., torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticCriterion:
    """A criterion that is a function of the statistics of one profiling pass."""

    unit: Unit
    statistics: tuple[Statistic, ...]
    formula: Callable[[Scores], torch.Tensor]

    def importance(self, scores: Scores) -> torch.Tensor:
        """Return fp32 [layers, width] for neurons or [layers] for layers."""
        return self.formula(scores)


def needed_statistics(criteria: Iterable[Criterion]) -> tuple[Statistic, ...]:
    """Return the statistics that `criteria` need, each once."""
    return tuple(dict.fromkeys(s for criterion in criteria for s in criterion.statistics))
