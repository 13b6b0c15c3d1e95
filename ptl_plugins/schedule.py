"""Phases of a recipe become rounds, and rounds become shapes: pure, from the config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Literal

from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.registry import Registry
from ptl_plugins.selectors import resized, size_of
from ptl_plugins.types import Cut, CutRequest, RoundSpec

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
    geometry: Geometry | None
    """None: only the scores will tell, here or in a round before."""


def expand(phases: Sequence[Phase], order: Order) -> tuple[RoundSpec, ...]:
    """Return the rounds of the phases.

    `neuron_then_layer`, `layer_then_neuron` and `alternating` are the orders of Table 3;
    `together` makes round t of every phase one round (both lines 4 and 5 of Algorithm 1).
    """
    cuts = [[(_in_round(p, index),) for index in range(p.rounds)] for p in phases]
    merged: list[tuple[Cut | None, ...]]
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


def _in_round(phase: Phase, index: int) -> Cut | None:
    """Return the phase's cut in its round `index`, from 0."""
    return phase.cut and replace(phase.cut, rounds_left=phase.rounds - index)


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
    now: Geometry | None = start
    for spec in rounds:
        for cut in spec.cuts:
            now = now and _after(cut, now, start, registry, multiple_of, spec.index)
        planned.append(PlannedRound(spec=spec, geometry=now))
    return tuple(planned)


def num_removed(request: CutRequest, registry: Registry) -> int | None:
    """Return how many neurons per layer, or layers, go; None where only the scores can tell.

    A neuron cut leaves a multiple of `multiple_of`, rounded up: never more than asked goes.
    """
    cut, multiple_of = request.cut, request.multiple_of
    present = size_of(request.present, cut.unit)
    number = registry.selectors.get(cut.selector).count(request)
    if number is None:
        return None
    left = present - number
    if cut.unit == "neuron":
        left = min(present, -(-left // multiple_of) * multiple_of)
    return present - left


def _after(
    cut: Cut, now: Geometry, start: Geometry, registry: Registry, multiple_of: int, index: int
) -> Geometry | None:
    request = CutRequest(cut=cut, original=start, present=now, multiple_of=multiple_of)
    present, removed = size_of(now, cut.unit), num_removed(request, registry)
    if removed is None:
        return None
    if removed >= present:
        what = "neurons per layer" if cut.unit == "neuron" else "layers"
        raise PruneError(
            f"round {index} removes {removed} {what}, but only {present} are left and at least "
            f"one has to stay; lower the amount or the rounds"
        )
    if cut.amount and not removed:
        raise PruneError(
            f"round {index} would remove nothing: {cut.amount:g} ({cut.selector}) of "
            f"{size_of(start, cut.unit)} {cut.unit}s comes to none, or multiple_of {multiple_of} "
            "rounds it away; change the amount"
        )
    return resized(now, cut.unit, present - removed)
