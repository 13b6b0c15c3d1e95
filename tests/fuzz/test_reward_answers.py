"""Answers of any text: a mark of 0 or 1, in time, from the reward and from the judge of answers."""

from __future__ import annotations

import time

import fuzz_targets as targets
import pytest
from fuzz_inputs import ANSWERS, bounded, pieced
from hypothesis import example, given
from hypothesis import strategies as st

from ptl_plugins.evaluation.math_judge import MathJudge

LONG = (
    "{" * 200_000, r"\boxed{" * 30_000, "<think>" * 30_000, r"\boxed{" + "9" * 200_000 + "}",
    r"\left" * 40_000, "$" * 200_000, " " * 200_000, "\\" * 200_001, r"\boxed{a}" * 20_000,
)  # fmt: skip
HUGE = ("9**9**9", "9^{9^{9^{9}}}", "10000000!", r"\binom{9999999}{999999}", "1e999999999")
ANSWER = pieced(ANSWERS, 10)


@pytest.fixture(scope="module")
def judge():
    pytest.importorskip("math_verify")
    with MathJudge(time_limit=1.0) as judge:
        yield judge


@bounded(200)
@given(pieced(ANSWERS, 30))
def test_what_is_done_to_a_text(text):
    targets.reward_text(text)


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:8])
def test_long_texts_take_no_longer_than_they_are(text):
    targets.reward_text(text)
    start = time.monotonic()
    targets.reward_answer(text, text)
    assert time.monotonic() - start < targets.OVERHEAD


@bounded(25)
@given(ANSWER, ANSWER)
@example("east", "seat")
def test_rewards(given_, wanted):
    targets.reward_answer(f"<think>so</think> \\boxed{{{given_}}}", wanted)


@bounded(20)
@given(st.none() | st.integers() | st.floats() | st.binary(max_size=9) | st.lists(st.text()))
def test_rewards_of_anything_else(value):
    targets.reward_answer(value, value)


@pytest.mark.parametrize("number", HUGE)
def test_numbers_that_nobody_can_write_down(number, judge):
    targets.reward_answer(rf"<think>so</think> \boxed{{{number}}}", "1")
    targets.reward_answer(r"<think>so</think> \boxed{1}", number)
    targets.judged_answer(judge, rf"\boxed{{{number}}}", r"\boxed{1}", None)


@bounded(12)
@given(ANSWER, st.none() | ANSWER, st.none() | ANSWER)
@example("\\boxed{1}\n", "\\boxed{1}", None)
def test_verdicts(judge, response, solution, answer):
    targets.judged_answer(judge, response, solution, answer)
