"""Amounts as people write them are read, and shown, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.amounts import read_amount, show_amount


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5B", 5e9),
        ("1.5B", 1.5e9),
        ("350M", 350e6),
        ("2K", 2e3),
        ("1T", 1e12),
        (" 5 B ", 5e9),
        ("500", 500.0),
        ("1e-3", 1e-3),
        ("-1", -1.0),
        ("inf", float("inf")),
    ],
)
def test_text_is_read_as_the_number_it_stands_for(text, number):
    assert read_amount(text) == number


@pytest.mark.parametrize("value", [3, 0.5, None, [1]])
def test_what_is_no_text_is_left_to_the_recipe(value):
    assert read_amount(value) is value


@pytest.mark.parametrize("text", ["5X", "5b", "B", "", "1.2.3B", "5BB", "many", "5 0", True, False])
def test_what_is_no_number_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"^is not a number such as 500, 0\.1 or 5B$"):
        read_amount(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5e9, "5B"),
        (1.5e9, "1.5B"),
        (350e6, "350M"),
        (2e12, "2T"),
        (1234567.0, "1234567"),
        (1000.0, "1000"),
        (512.0, "512"),
        (0.1, "0.1"),
        (0.0, "0"),
    ],
)
def test_a_number_is_shown_as_people_write_it(number, text):
    assert show_amount(number) == text


@given(st.integers(0, 10**14) | st.integers(1, 99).map(lambda n: n * 10**9))
def test_a_shown_amount_is_read_back(number):
    assert read_amount(show_amount(float(number))) == pytest.approx(number, rel=1e-15)
