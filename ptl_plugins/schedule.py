"""Phases of a recipe become rounds, and rounds become shapes: pure, from the config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.registry import Registry
from ptl_plugins.types import Cut, RoundSpec

Order = Literal["listed", "neuron_then_layer", "layer_then_neuron", "alternating", "together"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """`rounds` rounds of the same cut; None: rounds of recovery without a cut."""

    cut: Cut | None
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRound:
    """A round with the shape that it leaves behind."""

    spec: RoundSpec
    geometry: Geometry


def expand(phases: Sequence[Phase], order: Order) -> tuple[RoundSpec, ...]:
    """Return the rounds of the phases.

    `neuron_then_layer`, `layer_then_neuron` and `alternating` are the orders of Table 3;
    `together` makes round t of every phase one round (both lines 4 and 5 of Algorithm 1).
    """
    cuts: list[list[tuple[Cut | None, ...]]] = [[(p.cut,)] * p.rounds for p in phases]
    if order == "together":
        merged = [tuple(chain.from_iterable(row)) for row in zip_longest(*cuts, fillvalue=())]
    elif order == "listed":
        merged = list(chain.from_iterable(cuts))
    else:
        merged = _by_unit(list(chain.from_iterable(cuts)), order)
    return tuple(
        RoundSpec(index=index, cuts=tuple(cut for cut in row if cut is not None))
        for index, row in enumerate(merged, start=1)
    )


def _by_unit(rounds: list[tuple[Cut | None, ...]], order: Order) -> list[tuple[Cut | None, ...]]:
    neurons = [row for row in rounds if row[0] and row[0].unit == "neuron"]
    layers = [row for row in rounds if row[0] and row[0].unit == "layer"]
    others = [row for row in rounds if row[0] is None]
    if order == "neuron_then_layer":
        return neurons + layers + others
    if order == "layer_then_neuron":
        return layers + neurons + others
    pairs = chain.from_iterable(zip_longest(neurons, layers))
    return [row for row in pairs if row is not None] + others


def plan_rounds(
    rounds: Sequence[RoundSpec], start: Geometry, registry: Registry, *, multiple_of: int = 1
) -> tuple[PlannedRound, ...]:
    """Return every round with its width, layers, parameters and FLOPs.

    Raises:
        PruneError: a round would leave no neuron or no layer; the message names it.
    """
    planned: list[PlannedRound] = []
    now = start
    for spec in rounds:
        for cut in spec.cuts:
            now = _after(cut, now, start, registry, multiple_of, spec.index)
        planned.append(PlannedRound(spec=spec, geometry=now))
    return tuple(planned)


def num_removed(
    cut: Cut, registry: Registry, *, original: int, present: int, multiple_of: int = 1
) -> int:
    """Return how many neurons per layer, or layers, `cut` removes from `present`.

    A neuron cut leaves a multiple of `multiple_of`, rounded up: never more than asked goes.
    """
    left = present - registry.selectors.get(cut.selector).count(cut.amount, original=original)
    if cut.unit == "neuron":
        left = min(present, -(-left // multiple_of) * multiple_of)
    return present - left


def _after(
    cut: Cut, now: Geometry, start: Geometry, registry: Registry, multiple_of: int, index: int
) -> Geometry:
    neuron = cut.unit == "neuron"
    present, original = (now.width, start.width) if neuron else (now.num_layers, start.num_layers)
    removed = num_removed(
        cut, registry, original=original, present=present, multiple_of=multiple_of
    )
    if removed >= present:
        what = "neurons per layer" if neuron else "layers"
        raise PruneError(
            f"round {index} removes {removed} {what}, but only {present} are left and at least "
            f"one has to stay; lower the amount or the rounds"
        )
    if cut.amount and not removed:
        raise PruneError(
            f"round {index} would remove nothing: {cut.amount:g} ({cut.selector}) of {original} "
            f"{cut.unit}s comes to none, or multiple_of {multiple_of} rounds it away; "
            "raise the amount"
        )
    left = present - removed
    width, num_layers = (left, now.num_layers) if neuron else (now.width, left)
    return now.after(width=width, num_layers=num_layers)
