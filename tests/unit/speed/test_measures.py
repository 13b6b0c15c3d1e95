"""What is run for each measure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.measures import measure
from ptl_plugins.speed.protocol import Protocol

SMALL = Protocol(
    warmups=0, repeats=2, new_tokens=4, num_prompts=2, prompt_tokens=10, batch_size=3,
    max_natural_tokens=7,
)  # fmt: skip
TEXTS = ("abc", "defgh")


def passes(make_engine, name, **keys):
    """Return the timings of one measure and the model's own passes."""
    log = []
    a, b = make_engine(name="A", log=log, **keys), make_engine(name="B", log=log)
    timings = measure(a, b, TEXTS, replace(SMALL, measures=(name,)))
    return timings, [entry[1:] for entry in log if entry[0] == "A"]


def test_latency_takes_one_prompt_at_a_time_and_never_stops_early(make_engine):
    (timing,), log = passes(make_engine, "latency")
    prompts = [[tuple(map(ord, text))] for text in TEXTS]
    assert log == [(prompts[0], 4, False), (prompts[1], 4, False)] * 2
    assert {s.num_tokens for row in timing.model + timing.baseline for s in row} == {4}


def test_natural_may_stop_and_counts_what_was_generated(make_engine):
    (timing,), log = passes(make_engine, "natural", natural_tokens=3)
    assert all(stop and tokens == 7 for _, tokens, stop in log)
    assert {s.num_tokens for row in timing.model for s in row} == {3}
    assert {s.num_tokens for row in timing.baseline for s in row} == {5}


def test_throughput_takes_a_batch_of_prompts_of_exactly_the_stated_length(make_engine):
    (timing,), log = passes(make_engine, "throughput")
    assert len(log) == SMALL.repeats
    batch, tokens, stop = log[0]
    assert [len(prompt) for prompt in batch] == [10, 10, 10]
    assert len(set(batch)) == 3
    assert (tokens, stop) == (4, False)
    assert timing.model[0][0].num_tokens == 12


def test_prefill_and_decode_come_from_one_pass_over_the_stated_number_of_tokens(make_engine):
    log = []
    a, b = make_engine(name="A", log=log), make_engine(name="B", log=log)
    timings = measure(a, b, TEXTS, replace(SMALL, measures=("prefill", "decode")))
    assert [timing.measure for timing in timings] == ["prefill", "decode"]
    assert len(log) == 2 * SMALL.repeats
    assert timings[0].model[0][0].num_tokens == 10
    assert timings[1].model[0][0].num_tokens == 4


def test_decode_alone_reports_no_prefill(make_engine):
    timings, _ = passes(make_engine, "decode")
    assert [timing.measure for timing in timings] == ["decode"]


def test_measures_come_in_the_order_of_the_protocol(make_engine):
    wanted = ("decode", "latency", "prefill")
    timings = measure(
        make_engine(name="A"), make_engine(name="B"), TEXTS, replace(SMALL, measures=wanted)
    )
    assert tuple(timing.measure for timing in timings) == wanted


def test_each_model_reads_its_own_tokens(make_engine):
    log = []
    a, b = make_engine(name="A", log=log), make_engine(name="B", log=log)
    b.encode = lambda text: [7] * len(text)
    measure(a, b, TEXTS, replace(SMALL, measures=("latency", "decode")))
    tokens = {name: set() for name in "AB"}
    for name, prompt, *_ in log:
        tokens[name] |= set(prompt[0] if isinstance(prompt, list) else prompt)
    assert tokens["B"] == {7}
    assert 7 not in tokens["A"]


@pytest.mark.parametrize(
    ("measures", "keys", "needed"),
    [
        (("latency",), {"new_tokens": 61}, 66),
        (("natural",), {"max_natural_tokens": 60}, 65),
        (("throughput",), {"prompt_tokens": 61}, 65),
        (("prefill",), {"prompt_tokens": 65}, 65),
        (("decode",), {"new_tokens": 55}, 65),
    ],
)
def test_more_tokens_than_the_context_are_refused_before_anything_runs(
    make_engine, measures, keys, needed
):
    log = []
    a, b = make_engine(name="A", log=log), make_engine(name="B", log=log)
    a.facts = replace(a.facts, context=None)
    with pytest.raises(PTLError) as caught:
        measure(a, b, TEXTS, replace(SMALL, measures=measures, **keys))
    assert f"B: '{measures[0]}' needs {needed} tokens" in str(caught.value)
    assert "max_position_embeddings is 64" in str(caught.value)
    assert log == []


def test_exactly_the_context_is_allowed(make_engine):
    a, b = make_engine(name="A"), make_engine(name="B")
    measure(a, b, TEXTS, replace(SMALL, measures=("decode",), new_tokens=54))


def test_a_prompt_without_tokens_is_named(make_engine):
    a, b = make_engine(name="A"), make_engine(name="B")
    b.encode = lambda text: [] if text == "defgh" else [1]
    with pytest.raises(PTLError, match="B: prompt 'defgh' has no token"):
        measure(a, b, TEXTS, SMALL)
