"""What a registered component has to offer: the Protocols of a registry's catalogues.

Those of training frameworks and launchers are in `ptl_plugins.stage_types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ptl_plugins.geometry import Geometry
    from ptl_plugins.types import Cut, RoundContext, Scores, Subject, Unit


class Criterion(Protocol):
    """Turns statistics into importances; the least important go first."""

    @property
    def unit(self) -> Unit:
        """`neuron` or `layer`."""
        ...

    @property
    def statistics(self) -> tuple[Any, ...]:
        """The `ptl_plugins.criteria.Statistic`s that the profiling pass has to gather."""
        ...

    def importance(self, scores: Scores) -> NDArray[np.float32]:
        """Return [layers, width] for neurons or [layers] for layers."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CutRequest:
    """What a selector may look at."""

    cut: Cut
    original: Geometry
    """The sizes before the first round, which fractions and ratios refer to."""
    present: Geometry
    """The sizes before this cut."""
    multiple_of: int = 1
    """The width that stays shall be a multiple of it."""
    importance: NDArray[np.float32] | None = None
    """[layers, width], -inf in layers that go whole, or [layers]; None while only planned."""


class Selector(Protocol):
    """Turns an amount of the recipe into a count."""

    def check(self, cut: Cut) -> str | None:
        """Return what is wrong with the cut's amount in one line, or None."""
        ...

    def count(self, request: CutRequest) -> int | None:
        """Return how many neurons of every layer, or layers, go.

        None where only the importances can tell, and they are not there yet.

        Raises:
            PruneError: the amount cannot be reached.
        """
        ...


class Evaluator(Protocol):
    """Measures a subject."""

    def check(self, settings: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the recipe's settings in one line, or None."""
        ...

    def evaluate(
        self, ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return metrics by name; under several ranks every rank returns the same."""
        ...


class DataSource(Protocol):
    """A named source of reasoning text."""

    def rows(self, settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the rows."""
        ...
