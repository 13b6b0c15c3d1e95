"""How the documents of a corpus are shared among the rounds: whole-number weights of the parts.

The recipe's key `tokens`. What a round removes is worked out from the shapes alone, so that the
parts are known before anything is loaded and are the same whenever the run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import Geometry
from ptl_plugins.registry import Registry
from ptl_plugins.schedule import PlannedRound, plan_rounds
from ptl_plugins.types import Recipe


def part_weights(
    recipe: Recipe, original: Geometry, registry: Registry, *, among: tuple[int, int] | None = None
) -> tuple[int, ...]:
    """Return the weight of each round's part; its share is the weight over their sum.

    Args:
        recipe: its rounds, and how they share.
        original: the sizes before the first round.
        registry: where selectors are found by name.
        among: the first and the last of the rounds that share, counted from 1; None: all.

    Raises:
        PTLError: they share by what each round removes, and that is not known or below zero.
    """
    rounds = recipe.planned_rounds
    first, last = among or (1, len(rounds))
    if recipe.tokens == "final":
        return final_weights(last - first + 1)
    if recipe.tokens == "equal":
        return (1,) * (last - first + 1)
    planned = plan_rounds(rounds, original, registry, multiple_of=recipe.multiple_of)
    return proportional_weights(removed_parameters(planned, original))[first - 1 : last]


def final_weights(num_rounds: int) -> tuple[int, ...]:
    """Return weights of which the last is half of the sum, and the others share the rest."""
    others = num_rounds - 1
    return (*(1,) * others, max(1, others))


def proportional_weights(removed: Sequence[int]) -> tuple[int, ...]:
    """Return weights in the ratio of `removed`, where a 0 counts like the mean of the others."""
    cutting = [number for number in removed if number]
    if not cutting:
        return (1,) * len(removed)
    weights = [number * len(cutting) or sum(cutting) for number in removed]
    divisor = math.gcd(*weights)
    return tuple(weight // divisor for weight in weights)


def removed_parameters(planned: Sequence[PlannedRound], original: Geometry) -> tuple[int, ...]:
    """Return how many parameters each round removes, embeddings included.

    Raises:
        PTLError: only the scores can tell, or a round leaves more than it found.
    """
    removed, before = [], original
    for each in planned:
        if each.geometry is None:
            raise PTLError(_not_known(each))
        number = before.num_parameters - each.geometry.num_parameters
        if number < 0:
            raise PTLError(
                f"'proportional' shares by the parameters that each round removes, but round "
                f"{each.spec.index} adds {-number}, as slicing may; use equal or final"
            )
        removed.append(number)
        before = each.geometry
    return tuple(removed)


def _not_known(planned: PlannedRound) -> str:
    selectors = " and ".join(f"'{cut.selector}'" for cut in planned.spec.cuts)
    return (
        "'proportional' shares by the parameters that each round removes, but of round "
        f"{planned.spec.index} only the scores can tell (selector {selectors}); use equal or "
        "final, or another selector"
    )
