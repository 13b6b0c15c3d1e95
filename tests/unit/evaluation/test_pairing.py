"""McNemar and the paired bootstrap against direct computations."""

import math
import random

import pytest

from ptl_plugins.evaluation.pairing import bootstrap_interval, mcnemar, pair
from ptl_plugins.evaluation.summary import mean, metrics, summarize
from ptl_plugins.evaluation.values import QuestionResult


def results(marks, **keys) -> list[QuestionResult]:
    return [
        QuestionResult(index=i, status="scored", marks={"right": mark}, response="x", **keys)
        for i, mark in enumerate(marks)
    ]


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (5, 5), (1, 9), (0, 6), (30, 12)])
def test_mcnemar_is_the_two_sided_binomial_test(ours, theirs):
    total = ours + theirs
    tail = sum(math.comb(total, k) for k in range(min(ours, theirs) + 1)) / 2**total
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail))


def test_pairs_are_counted_question_by_question():
    ours, theirs = results([1, 1, 0, 0, 1]), results([1, 0, 1, 0, 0])
    found = pair("right", ours, theirs)
    counts = (found.both, found.only_model, found.only_baseline, found.neither)
    assert counts == (1, 2, 1, 1)
    assert found.difference == pytest.approx(0.2)


def test_questions_that_one_side_lacks_are_left_out():
    theirs = [*results([1, 1])[:1], QuestionResult(index=1, status="unreadable_gold")]
    assert pair("right", results([1, 0]), theirs).num_questions == 1


def test_the_interval_is_that_of_a_resampling_by_hand():
    rng = random.Random(1)
    differences = [float(rng.choice([-1, 0, 0, 1, 1])) for _ in range(80)]
    means = sorted(
        sum(rng.choice(differences) for _ in differences) / len(differences) for _ in range(4000)
    )
    low, high = bootstrap_interval(differences)
    assert low == pytest.approx(means[100], abs=0.03)
    assert high == pytest.approx(means[3900], abs=0.03)


def test_the_interval_is_the_same_every_time():
    differences = [1.0, 0.0, -1.0, 1.0, 0.0, 0.0, 1.0]
    assert bootstrap_interval(differences) == bootstrap_interval(differences)


def test_the_standard_error_is_that_of_lm_eval():
    from lm_eval.api.metrics import mean_stderr

    values = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean(values).standard_error == pytest.approx(mean_stderr(values))
    assert mean([1.0]).standard_error == 0.0


def test_a_summary_counts_what_was_asked_and_leaves_out_unreadable_answers():
    asked = [
        *results([1, 0], prompt_tokens=100, generated_tokens=20, flops=1000, finish="stop"),
        QuestionResult(index=2, status="too_long", marks={"right": 0.0}, prompt_tokens=9000),
        QuestionResult(index=3, status="unreadable_gold"),
    ]
    found = summarize("task", ["right"], asked)
    assert found.num_questions == 3
    assert found.accuracy.value == pytest.approx(1 / 3)
    assert (found.prompt_tokens, found.generated_tokens, found.flops) == (100, 20, 1000)
    assert metrics(found) == {
        "task_accuracy": pytest.approx(1 / 3),
        "task_num_problems": 3.0,
        "task_tokens": 120.0,
        "task_flops": 1000.0,
    }
