"""Phases of a recipe become rounds, and rounds become shapes: pure, from the config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Literal

from ptl_plugins.amounts import show_amount
from ptl_plugins.components import CutRequest
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import NOT_AGAIN, Geometry
from ptl_plugins.protection import least_protected
from ptl_plugins.registry import Registry
from ptl_plugins.selectors import resized, size_of, units
from ptl_plugins.types import Cut, RoundSpec, top_of_round

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
    `together` makes round t of every phase one round (both lines 4 and 5 of Algorithm 1); its
    layers go first, so that a target of neurons counts them.
    """
    cuts = [[(_in_round(p, index),) for index in range(p.rounds)] for p in phases]
    merged: list[tuple[Cut | None, ...]]
    if order == "together":
        rows = (tuple(chain.from_iterable(row)) for row in zip_longest(*cuts, fillvalue=()))
        merged = [tuple(sorted(row, key=_is_of_neurons)) for row in rows]
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


def _is_of_neurons(cut: Cut | None) -> bool:
    return cut is not None and cut.unit == "neuron"


def _by_unit(rounds: list[tuple[Cut | None, ...]], order: Order) -> list[tuple[Cut | None, ...]]:
    neurons = [row for row in rounds if row[0] and row[0].unit == "neuron"]
    layers = [row for row in rounds if row[0] and row[0].unit == "layer"]
    others = [row for row in rounds if row[0] is None or row[0].unit == "hidden"]
    if order == "neuron_then_layer":
        return neurons + layers + others
    if order == "layer_then_neuron":
        return layers + neurons + others
    pairs = chain.from_iterable(zip_longest(neurons, layers))
    return [row for row in pairs if row is not None] + others


def plan_rounds(
    rounds: Sequence[RoundSpec],
    start: Geometry,
    registry: Registry,
    *,
    multiple_of: int = 1,
    protect_top: int | Sequence[int] = 0,
) -> tuple[PlannedRound, ...]:
    """Return every round with its width, layers, parameters and FLOPs.

    Args:
        rounds: what is cut.
        start: the sizes before the first round.
        registry: where selectors are found by name.
        multiple_of: the width that stays is a multiple of it.
        protect_top: neurons per layer that a second corpus protects; several: one number for each
            round that cuts neurons.

    Raises:
        PruneError: a round would leave no neuron or no layer, or nothing to cut but what is
            protected; the message names it.
    """
    planned: list[PlannedRound] = []
    now: Geometry | None = start
    sliced = start.sliced_from is not None
    for spec in rounds:
        for cut in spec.cuts:
            _require_sliceable(spec, sliced)
            sliced = sliced or cut.unit == "hidden"
            where, present = f"round {spec.index}", now or start
            request = CutRequest(cut=cut, original=start, present=present, multiple_of=multiple_of)
            _require_no_importances(request, registry, where)
            top = top_of_round(protect_top, rounds, spec.index)
            now = now and _after(request, registry, top, where)
        planned.append(PlannedRound(spec=spec, geometry=now))
    return tuple(planned)


def _require_sliceable(spec: RoundSpec, sliced: bool) -> None:
    """Refuse a second cut of a sliced model, and slicing beside another cut."""
    if len(spec.cuts) > 1 and any(cut.unit == "hidden" for cut in spec.cuts):
        raise PruneError(
            f"round {spec.index} slices the residual stream beside another cut; give unit 'hidden' "
            "a round of its own, behind the others (order: listed)"
        )
    if sliced:
        raise PruneError(
            f"round {spec.index}: {NOT_AGAIN} (one phase of unit 'hidden' with rounds: 1)"
        )


def _require_no_importances(request: CutRequest, registry: Registry, where: str) -> None:
    """Refuse a cut of directions whose number only importances could tell: they have none."""
    if request.cut.unit == "hidden" and num_removed(request, registry) is None:
        raise PruneError(
            f"{where}: selector '{request.cut.selector}' reads importances, and directions of the "
            "hidden size have none; give count, fraction, parameters or flops"
        )


def num_removed(request: CutRequest, registry: Registry) -> int | None:
    """Return how many neurons per layer, or layers, go; None where only the scores can tell.

    A cut of neurons or of directions leaves a multiple of `multiple_of`, rounded up: never more
    than asked goes.
    """
    cut, multiple_of = request.cut, request.multiple_of
    present = size_of(request.present, cut.unit)
    number = registry.selectors.get(cut.selector).count(request)
    if number is None:
        return None
    left = present - number
    if cut.unit != "layer":
        left = -(-left // multiple_of) * multiple_of
    return max(0, present - left)


def _after(
    request: CutRequest, registry: Registry, protect_top: int, where: str
) -> Geometry | None:
    unit, removed = request.cut.unit, num_removed(request, registry)
    present = size_of(request.present, unit)
    if unit == "neuron" and protect_top:
        _require_unprotected(request, removed or 0, registry, protect_top, where)
    if removed is None:
        return None
    if removed >= present:
        what = "neurons per layer" if unit == "neuron" else units(unit)
        raise PruneError(
            f"{where} removes {removed} {what}, but only {present} are left and at least "
            f"one has to stay; lower the amount or the rounds"
        )
    if request.cut.amount and not removed:
        raise PruneError(f"{where} would remove nothing: {_why_nothing(request)}")
    return resized(request.present, unit, present - removed)


def _require_unprotected(
    request: CutRequest, removed: int, registry: Registry, protect_top: int, where: str
) -> None:
    criterion = registry.criteria.get(request.cut.criterion)
    present, kept = request.present.width, least_protected(criterion, protect_top)
    if protect_top >= present:
        raise PruneError(f"{where} has {present} neurons per layer, and protect.top {protect_top} "
                         "protects them all; protect fewer")  # fmt: skip
    if removed > present - kept:
        raise PruneError(
            f"{where} removes {removed} neurons per layer of {present}, but protect.top keeps "
            f"{protect_top}; protect fewer, or lower the amount or the rounds"
        )


def _why_nothing(request: CutRequest) -> str:
    cut, size = request.cut, size_of(request.present, request.cut.unit)
    rounded = f", or multiple_of {request.multiple_of} rounds it away"
    return (
        f"{cut.selector} {show_amount(cut.amount)} comes to none of {size} {units(cut.unit)} (too "
        f"little for the rounds, or met already{rounded if request.multiple_of > 1 else ''}); "
        "change the amount or the rounds"
    )
