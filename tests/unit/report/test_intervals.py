"""Wilson's interval against published numbers, and only where the sample is known."""

from __future__ import annotations

import pytest

from ptl_plugins.report.intervals import interval, sample_size, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_it_is_the_published_interval(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_another_level_is_another_interval():
    assert wilson(5, 10, level=0.5)[0] > wilson(5, 10)[0]


def test_a_share_of_a_known_number_has_the_interval_of_its_count():
    assert interval(94 / 278, 278.0) == wilson(94, 278)


@pytest.mark.parametrize(
    ("share", "trials"),
    [(0.3333, 10), (0.5, 0), (0.5, 2.5), (float("nan"), 10), (float("inf"), 10), (1.5, 10)],
)
def test_what_is_no_count_of_the_sample_has_none(share, trials):
    assert interval(share, trials) is None


@pytest.mark.parametrize(
    ("metric", "names", "num_tasks", "size"),
    [
        ("step_accuracy", ["num_steps", "num_problems"], 1, "num_steps"),
        ("step_accuracy", ["num_steps", "num_problems"], 2, "num_steps"),
        ("gsm8k_accuracy", ["gsm8k_num_problems", "num_problems"], 2, "gsm8k_num_problems"),
        ("gsm8k_accuracy", ["num_gsm8k_problems"], 2, "num_gsm8k_problems"),
        ("accuracy", ["num_problems"], 1, "num_problems"),
        ("gsm8k_accuracy", ["num_problems"], 1, "num_problems"),
        ("gsm8k_accuracy", ["num_problems"], 2, None),  # perhaps the other task's
        ("accuracy", ["num_tokens"], 1, None),
    ],
)
def test_the_sample_of_an_accuracy_is_found_by_its_name(metric, names, num_tasks, size):
    values = dict.fromkeys([metric, *names], 1.0)
    assert sample_size(metric, values, num_tasks=num_tasks) == size
