"""Selectors: how the amount of a cut is read."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from ptl_plugins.amounts import show_amount
from ptl_plugins.components import CutRequest
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.types import Cut, Unit


@dataclass(frozen=True, slots=True)
class Count:
    """`amount` is a whole number of neurons per layer, of layers, or of directions."""

    def check(self, cut: Cut) -> str | None:
        """Return what is wrong with the amount, or None."""
        whole = float(cut.amount).is_integer()
        return None if whole else f"{cut.amount} is not a whole number (selector 'count')"

    def count(self, request: CutRequest) -> int:
        """Return the amount."""
        return int(request.cut.amount)


@dataclass(frozen=True, slots=True)
class Fraction:
    """`amount` is a fraction of the original width, number of layers, or hidden size."""

    def check(self, cut: Cut) -> str | None:
        """Return what is wrong with the amount, or None."""
        return None if cut.amount < 1 else f"{cut.amount} is not below 1 (selector 'fraction')"

    def count(self, request: CutRequest) -> int:
        """Return the fraction of the original size, rounded to the nearest whole number."""
        size = size_of(request.original, request.cut.unit)
        return math.floor(request.cut.amount * size + 0.5)


@dataclass(frozen=True, slots=True)
class Threshold:
    """`amount` is sigma of Eq. 4 and 6: what is above it is never cut.

    The width stays uniform, so every layer loses as many neurons as the layer with the fewest
    candidates has (importance <= sigma). Of layers, all candidates go.
    """

    def check(self, cut: Cut) -> str | None:
        """Any amount is a threshold."""
        return None

    def count(self, request: CutRequest) -> int | None:
        """Return the number of candidates, or None before the importances are known."""
        if request.importance is None:
            return None
        import numpy as np

        sigma = min(request.cut.amount, float(np.finfo(np.float32).max))  # protected: infinite
        return int((request.importance <= sigma).sum(axis=-1).min())


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """`amount` is what shall be left: a ratio of the original below 1, or a number.

    The rounds of a phase share the way there equally. The target is met, not missed by a
    little: the width is rounded down, also to `multiple_of`.
    """

    name: str
    quantity: str
    """The property of `Geometry` that is meant."""
    unit: str
    """What it is counted in."""
    absolute: bool
    """Whether a number of 1 or more is understood, such as 5B."""

    def check(self, cut: Cut) -> str | None:
        """Return what is wrong with the amount, or None."""
        if 0 < cut.amount < 1 or (self.absolute and cut.amount >= 1000):
            return None
        allowed = "a ratio of the original between 0 and 1"
        allowed += ", or a number of parameters such as 5B" if self.absolute else ""
        return f"{show_amount(cut.amount)} is not {allowed} (selector '{self.name}')"

    def count(self, request: CutRequest) -> int:
        """Return this round's share of what has to go.

        Raises:
            PruneError: cutting this unit alone cannot reach the target.
        """
        left = self._left(request)
        if left < 1:
            raise PruneError(self._unreachable(request))
        way = max(0, size_of(request.present, request.cut.unit) - left)
        return -(-way // request.cut.rounds_left)

    def _left(self, request: CutRequest) -> int:
        """Return the size that meets the target, which may be none."""
        unit = request.cut.unit
        if unit == "hidden":  # shortcuts make it a square, which grows all the same
            sizes = range(1, request.present.hidden + 1)
            left = bisect.bisect_right(
                sizes,
                self._wanted(request),
                key=lambda size: self._value(resized(request.present, unit, size)),
            )
            return left // _least(request) * _least(request)
        # the quantity is linear in the size, so two sizes tell its slope
        start, one = (self._value(resized(request.present, unit, size)) for size in (0, 1))
        left = math.floor((self._wanted(request) - start) / (one - start))
        return left // _least(request) * _least(request)

    def _unreachable(self, request: CutRequest) -> str:
        unit = request.cut.unit
        least = min(_least(request), size_of(request.present, unit))
        rest = self._value(resized(request.present, unit, least))
        sizes = {"neuron": f"width {least}", "layer": "one layer", "hidden": f"size {least}"}
        return (
            f"{self.name} {show_amount(request.cut.amount)} cannot be reached by cutting "
            f"{units(unit)} alone: {sizes[unit]} still leaves {rest:,.0f} {self.unit}, and "
            f"{self._wanted(request):,.0f} are asked for; ask for more, or cut the other unit as "
            "well"
        )

    def _wanted(self, request: CutRequest) -> float:
        amount = request.cut.amount
        return amount if amount >= 1 else amount * self._value(request.original)

    def _value(self, geometry: Geometry) -> float:
        return float(getattr(geometry, self.quantity))


PARAMETERS = Target(name="parameters", quantity="num_parameters", unit="parameters", absolute=True)
"""All parameters, tied embeddings counted once."""

FLOPS = Target(name="flops", quantity="flops_per_token", unit="FLOPs per token", absolute=False)
"""FLOPs per token, the lm_head counted."""


def _least(request: CutRequest) -> int:
    return 1 if request.cut.unit == "layer" else request.multiple_of


def units(unit: Unit) -> str:
    """Return the plural of a unit."""
    return "directions of the hidden size" if unit == "hidden" else f"{unit}s"


def size_of(geometry: Geometry, unit: Unit) -> int:
    """Return the width, the number of layers, or the hidden size."""
    sizes = {"neuron": geometry.width, "layer": geometry.num_layers, "hidden": geometry.hidden}
    return sizes[unit]


def resized(geometry: Geometry, unit: Unit, size: int) -> Geometry:
    """Return `geometry` with another width, number of layers, or hidden size."""
    if unit == "hidden":
        return geometry.sliced(size)
    if unit == "neuron":
        return geometry.after(width=size, num_layers=geometry.num_layers)
    return geometry.after(width=geometry.width, num_layers=size)
