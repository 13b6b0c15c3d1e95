"""Criteria of unit `hidden`: which directions of the residual stream stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptl_plugins.errors import PruneError
from ptl_plugins.types import Scores, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Basis = Callable[["torch.Tensor", int], "torch.Tensor"]
"""From a second moment, [hidden, hidden] in fp64, and the run's seed: the orthogonal matrix whose
columns are the directions, those that stay first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directions:
    """A rule for directions; they depend on what was sliced before, so nothing is scored first."""

    basis: Basis
    unit: Unit = "hidden"
    statistics: tuple[()] = ()

    def importance(self, scores: Scores) -> NDArray[np.float32]:
        """Refuse: there are no importances.

        Raises:
            PruneError: always.
        """
        raise PruneError("directions of the hidden size are found while they are cut, not scored")


def _principal(moment: torch.Tensor, seed: int) -> torch.Tensor:
    import torch

    vectors: torch.Tensor = torch.linalg.eigh(moment)[1]
    return vectors.flip(1)


def _random(moment: torch.Tensor, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(moment.shape, generator=generator, dtype=torch.float64)
    rotation: torch.Tensor = torch.linalg.qr(normal)[0]
    return rotation.to(moment.device)


SLICEGPT = Directions(basis=_principal)
"""Principal directions of each norm's output over the calibration tokens, the greatest first
(SliceGPT, Ashkboos et al., 2024, section 3.3)."""

RANDOM_DIRECTIONS = Directions(basis=_random)
"""Random orthogonal directions, the same ones before every norm: what SliceGPT is held against."""
