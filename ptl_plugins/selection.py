"""Selectors and the choice of what goes: pure functions of importances and amounts.

The width stays uniform: every layer loses the same number of neurons. Ties are broken by score,
then by index, so a choice depends on nothing but the scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptl_plugins.errors import PruneError
from ptl_plugins.registry import Registry
from ptl_plugins.schedule import num_removed
from ptl_plugins.types import Cut, PrunePlan, Scores

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Count:
    """`amount` is a whole number of neurons per layer, or of layers."""

    def check(self, amount: float) -> str | None:
        """Return what is wrong with `amount`, or None."""
        whole = float(amount).is_integer()
        return None if whole else f"{amount} is not a whole number (selector 'count')"

    def count(self, amount: float, *, original: int) -> int:
        """Return `amount`."""
        return int(amount)


@dataclass(frozen=True, slots=True)
class Fraction:
    """`amount` is a fraction of the original width, or of the original number of layers."""

    def check(self, amount: float) -> str | None:
        """Return what is wrong with `amount`, or None."""
        return None if amount < 1 else f"{amount} is not below 1 (selector 'fraction')"

    def count(self, amount: float, *, original: int) -> int:
        """Return the fraction of `original`, rounded to the nearest whole number."""
        return math.floor(amount * original + 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """The sizes before the first round, which fractions refer to."""

    width: int
    num_layers: int


def choose(
    cuts: Sequence[Cut],
    scores: Scores,
    registry: Registry,
    *,
    original: Original,
    multiple_of: int = 1,
    digest: str = "",
) -> PrunePlan:
    """Return the plan of a round's cuts: the least important neurons and layers.

    Args:
        cuts: at most one per unit.
        scores: statistics of the model as it is.
        registry: where criteria and selectors are found by name.
        original: what fractions refer to.
        multiple_of: the width that stays is a multiple of it.
        digest: of the scores, kept as provenance.

    Raises:
        PruneError: a cut asks for more than there is, or scores are not finite.
    """
    neurons: tuple[tuple[int, ...], ...] = ()
    layers: tuple[int, ...] = ()
    chosen: dict[str, str] = {}
    for cut in cuts:
        importance = _importance(cut, scores, registry)
        if cut.unit == "neuron":
            present, first = scores.width, original.width
        else:
            present, first = scores.num_layers, original.num_layers
        number = num_removed(
            cut, registry, original=first, present=present, multiple_of=multiple_of
        )
        _require_rest(cut, number, present)
        if cut.unit == "neuron":
            neurons = lowest_per_layer(importance, number) if number else ()
        else:
            layers = lowest_per_layer(importance[None], number)[0]
        chosen[cut.unit] = cut.criterion
    return _plan(scores, neurons, layers, chosen, digest)


def lowest_per_layer(importance: torch.Tensor, number: int) -> tuple[tuple[int, ...], ...]:
    """Return per row of [layers, width] the ascending indices of the `number` lowest values."""
    order = importance.argsort(dim=-1, stable=True)[:, :number]
    return tuple(tuple(row) for row in order.sort(dim=-1).values.tolist())


def _importance(cut: Cut, scores: Scores, registry: Registry) -> torch.Tensor:
    importance = registry.criteria.get(cut.criterion).importance(scores)
    bad = (~importance.isfinite()).nonzero()
    if len(bad):
        raise PruneError(
            f"criterion '{cut.criterion}' is not finite in layer {int(bad[0, 0])} "
            f"({len(bad)} of {importance.numel()} values): the model or its data overflow; "
            "nothing was removed"
        )
    return importance


def _require_rest(cut: Cut, number: int, present: int) -> None:
    if number >= present:
        what = "neurons per layer" if cut.unit == "neuron" else "layers"
        raise PruneError(
            f"{number} {what} shall go, but there are only {present} and one has to stay: "
            f"{number - present + 1} too many"
        )


def _plan(
    scores: Scores,
    neurons: tuple[tuple[int, ...], ...],
    layers: tuple[int, ...],
    criteria: Mapping[str, str],
    digest: str,
) -> PrunePlan:
    return PrunePlan(
        num_layers=scores.num_layers,
        width=scores.width,
        removed_neurons=neurons,
        removed_layers=layers,
        criteria=dict(criteria),
        scores_digest=digest,
    )
