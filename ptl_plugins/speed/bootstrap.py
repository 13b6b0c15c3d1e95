"""How sure a speedup is: a percentile bootstrap over the pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ptl_plugins.errors import PTLError

LEVEL = 0.95
NUM_RESAMPLES = 9999


def ratio(model: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the speedup: median seconds of the baseline over those of the model."""
    return statistics.median(baseline) / statistics.median(model)


def interval(
    model: Sequence[float], baseline: Sequence[float], *, seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of `ratio`, pairs drawn with replacement.

    It covers what the timings scatter on this machine in this run; other prompts, machines and
    lengths are not in it.

    Raises:
        PTLError: scipy is not installed.
    """
    import numpy as np

    found = (
        _scipy_stats()
        .bootstrap(
            (np.asarray(model), np.asarray(baseline)),
            lambda ours, theirs, axis=-1: np.median(theirs, axis=axis) / np.median(ours, axis=axis),
            paired=True,
            vectorized=True,
            confidence_level=LEVEL,
            n_resamples=NUM_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    return float(found.low), float(found.high)


def require_scipy() -> None:
    """Fail before anything is measured where no interval could be had.

    Raises:
        PTLError: scipy is not installed.
    """
    _scipy_stats()


def _scipy_stats() -> Any:
    try:
        import scipy.stats
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "scipy":
            raise
        raise PTLError(
            "intervals of a speedup need scipy, which is not installed: pip install 'ptl[eval]'"
        ) from None
    return scipy.stats
