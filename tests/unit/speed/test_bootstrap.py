"""Intervals of a speedup."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.bootstrap import interval, ratio


def test_the_speedup_is_the_baselines_median_over_the_models():
    assert ratio([1.0, 2.0, 90.0], [6.0, 5.0, 0.1]) == 2.5


def test_the_interval_holds_the_speedup_and_is_the_same_for_the_same_seed():
    rng = np.random.default_rng(0)
    ours, theirs = 1 + 0.1 * rng.random(20), 2 + 0.1 * rng.random(20)
    low, high = interval(ours, theirs, seed=1)
    assert low < ratio(list(ours), list(theirs)) < high
    assert (low, high) == interval(ours, theirs, seed=1)
    assert (low, high) != interval(ours, theirs, seed=2)


def test_samples_without_scatter_give_an_interval_of_one_point():
    assert interval([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], seed=0) == (2.0, 2.0)


def test_pairs_are_drawn_together_so_what_slows_both_costs_no_certainty():
    slow = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 14.0])
    assert interval(slow, 2 * slow, seed=0) == (2.0, 2.0)
    low, high = interval(slow, 2 * slow[::-1], seed=0)
    assert high - low > 1


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng, held = np.random.default_rng(5), 0
    for seed in range(60):
        drift = rng.lognormal(0, 0.3, 15)
        ours, theirs = drift * rng.lognormal(0, 0.1, 15), 2 * drift * rng.lognormal(0, 0.1, 15)
        low, high = interval(ours, theirs, seed=seed)
        held += low <= 2 <= high
    assert held >= 53


def test_a_missing_scipy_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(PTLError, match=r"need scipy.*pip install 'ptl\[eval\]'"):
        interval([1.0, 2.0], [1.0, 2.0], seed=0)
