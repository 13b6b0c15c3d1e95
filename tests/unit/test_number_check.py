"""Numbers that no training takes are told by their key."""

from __future__ import annotations

import math

import pytest

from ptl_plugins.number_check import number_problems


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(value):
    (line,) = number_problems({"recover": [{"settings": {"warmup_ratio": value}}]})
    assert line == f"recover.0.settings.warmup_ratio: {value}: is no finite number; give one"


@pytest.mark.parametrize("value", ["nan", ".nan", -1.0e-5, -1, "-1e-5", "inf"])
def test_learning_rates_also_as_text(value):
    problems = number_problems({"learning_rate": value})
    assert len(problems) == (0 if value == ".nan" else 1), "which no parser reads as a number"


@pytest.mark.parametrize(
    "keys",
    [{"learning_rate": "1e-5"}, {"learning_rate": 0}, {"learning_rate": None}, {"dataset": "nan"},
     {"learning_rate": "fast"}, {"loss": -1.0}, {"amount": "5B"}],
)  # fmt: skip
def test_numbers_that_are_fine(keys):
    assert number_problems(keys) == []
