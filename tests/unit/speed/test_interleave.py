"""The order in which both models run, and which samples are kept."""

from __future__ import annotations

from collections import Counter

import pytest

from ptl_plugins.speed.engine import Sample
from ptl_plugins.speed.interleave import take_turns


def turns(*, warmups=0, repeats=2, num_prompts=2):
    """Return the timings and the order of the passes; the n-th pass takes n seconds."""
    log = []

    def run(engine, prompt):
        log.append((engine, prompt))
        return {"m": Sample(seconds=float(len(log)), num_tokens=1)}

    timings = take_turns("A", "B", run, warmups=warmups, repeats=repeats, num_prompts=num_prompts)
    return timings, log


def test_the_models_take_turns_in_alternating_order():
    _, log = turns(repeats=4, num_prompts=1)
    assert "".join(engine for engine, _ in log) == "ABBAABBA"


@pytest.mark.parametrize("num_prompts", [1, 2, 3, 4])
def test_no_model_runs_more_than_twice_in_a_row_and_each_begins_equally_often(num_prompts):
    _, log = turns(repeats=4, num_prompts=num_prompts)
    order = "".join(engine for engine, _ in log)
    assert "AAA" not in order
    assert "BBB" not in order
    begun = Counter(log[::2])
    assert {begun[engine, p] for engine in "AB" for p in range(num_prompts)} == {2}


def test_both_samples_of_a_pair_are_of_the_same_prompt():
    _, log = turns(repeats=3, num_prompts=3)
    assert all(one[1] == other[1] for one, other in zip(log[::2], log[1::2], strict=True))


def test_samples_go_to_the_model_that_took_them_in_rows_of_repeats():
    (timing,), log = turns(repeats=2, num_prompts=2)
    assert log == [("A", 0), ("B", 0), ("B", 1), ("A", 1), ("B", 0), ("A", 0), ("A", 1), ("B", 1)]
    assert [[sample.seconds for sample in row] for row in timing.model] == [[1, 4], [6, 7]]
    assert [[sample.seconds for sample in row] for row in timing.baseline] == [[2, 3], [5, 8]]


def test_warmups_run_both_models_and_are_not_counted():
    (timing,), log = turns(warmups=3, repeats=1, num_prompts=2)
    assert [log[i][0] for i in range(6)] == ["A", "B", "B", "A", "A", "B"]
    assert [sample.seconds for sample in timing.model[0]] == [7, 10]
    assert len(log) == 2 * (3 + 2)


def test_a_pass_that_times_two_things_gives_two_timings():
    def run(engine, prompt):
        return {"x": Sample(seconds=1, num_tokens=1), "y": Sample(seconds=2, num_tokens=1)}

    timings = take_turns("A", "B", run, warmups=0, repeats=2, num_prompts=1)
    assert [timing.measure for timing in timings] == ["x", "y"]
    assert timings[1].model[0][0].seconds == 2
