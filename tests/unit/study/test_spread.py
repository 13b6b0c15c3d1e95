"""Means over seeds and paired differences."""

from __future__ import annotations

import math

import pytest

from ptl_plugins.study.spread import paired, spread


def test_a_spread_has_the_sample_deviation():
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation, found.num_seeds) == (2.0, 1.0, 3)


def test_one_seed_has_no_deviation_and_none_no_spread():
    assert spread([1.5]).deviation is None
    assert spread([]) is None


def test_an_infinite_loss_has_no_deviation():
    assert spread([1.0, math.inf]).deviation is None


def test_only_equal_seeds_are_paired():
    found = paired({1: 2.0, 2: 3.0, 9: 100.0}, {2: 1.0, 1: 1.0, 8: 100.0})
    assert (found.mean, found.seeds) == (1.5, (1, 2))
    assert paired({1: 1.0}, {2: 1.0}) is None


def test_the_interval_is_students():
    """By hand: differences 1, 2, 3; t(0.975, 2) = 4.302653, standard error 1 / sqrt(3)."""
    found = paired({1: 1.0, 2: 2.0, 3: 3.0}, dict.fromkeys((1, 2, 3), 0.0))
    half = 4.302653 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.p_value == pytest.approx(0.0742, abs=1e-4)


def test_one_common_seed_has_a_difference_and_no_interval():
    found = paired({1: 2.0}, {1: 1.0})
    assert (found.mean, found.deviation, found.interval, found.p_value) == (1.0, None, None, None)


def test_equal_differences_have_no_p_value():
    assert paired({1: 2.0, 2: 2.0}, {1: 1.0, 2: 1.0}).p_value is None
