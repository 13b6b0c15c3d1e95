"""Confidence intervals of proportions, where the sample they come from is on record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

LEVEL = 0.95
NEAR_WHOLE = 1e-6
"""A count of successes is whole up to this, relative to the trials."""


def wilson(successes: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson score interval of `successes / trials`.

    It stays inside 0 and 1, and says something at 0 and at `trials` successes as well.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = successes / trials, z * z / trials
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, (middle - half) / (1 + weight)), min(1.0, (middle + half) / (1 + weight))


def interval(share: float, trials: float) -> tuple[float, float] | None:
    """Return the interval of a measured share, or None where it is no count of `trials`.

    An average of something else, such as several tries per problem, is no whole count.
    """
    if not (math.isfinite(share) and trials >= 1 and float(trials).is_integer()):
        return None
    successes = round(share * trials)
    if not 0 <= successes <= trials or abs(share * trials - successes) > NEAR_WHOLE * trials:
        return None
    return wilson(successes, int(trials))


def sample_size(metric: str, values: Mapping[str, float], *, num_tasks: int) -> str | None:
    """Return the name under which the sample of an accuracy is recorded, or None.

    `NAME_accuracy` is of `num_NAMEs`, `NAME_num_problems` or `num_NAME_problems`. A plain
    `num_problems` belongs to one task alone, and where there are several nobody knows which.
    """
    stem = metric.removesuffix("accuracy").removesuffix("_")
    own = (f"num_{stem}s", f"{stem}_num_problems", f"num_{stem}_problems") if stem else ()
    shared = ("num_problems",) if num_tasks == 1 else ()
    return next((name for name in (*own, *shared) if name in values), None)
