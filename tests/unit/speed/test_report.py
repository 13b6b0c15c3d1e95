"""From samples to numbers, and to text."""

from __future__ import annotations

import json

import pytest

from ptl_plugins.speed.engine import Sample
from ptl_plugins.speed.interleave import Timing
from ptl_plugins.speed.machine import Machine, Snapshot
from ptl_plugins.speed.protocol import PAPER, Protocol
from ptl_plugins.speed.report import SpeedReport, compare, pair_values
from ptl_plugins.speed.table import lines
from ptl_plugins.speed.weights import WeightsBound

STATE = Snapshot(load_average=0.25, cpu_mhz=2600.0, accelerator_mhz=None)
MACHINE = Machine(device="a chip", threads=2, start=STATE, end=STATE)


def rows(*values, tokens=4):
    """Return rows of one sample each."""
    return tuple((Sample(seconds=value, num_tokens=tokens),) for value in values)


def report(make_engine, *timings, protocol=None, **keys):
    """Return the report of timings."""
    return SpeedReport(
        protocol=protocol or Protocol(),
        backend="hf",
        model=make_engine(name="small").facts,
        baseline=make_engine(name="large").facts,
        comparisons=compare(timings, seed=0),
        weights=WeightsBound(model_bytes=200_000_000, baseline_bytes=300_000_000),
        machine=MACHINE,
        timings=timings,
        **keys,
    )


def timing(measure, model, baseline):
    """Return a timing of these rows."""
    return Timing(measure=measure, model=model, baseline=baseline)


def test_a_repeat_is_the_mean_over_its_prompts():
    two = ((Sample(seconds=1, num_tokens=1), Sample(seconds=5, num_tokens=3)),) * 2
    assert pair_values(two, "question") == [3, 3]
    assert pair_values(two, "token") == [1.5, 1.5]


def test_with_one_repeat_every_prompt_is_a_pair():
    one = ((Sample(seconds=1, num_tokens=2), Sample(seconds=5, num_tokens=5)),)
    assert pair_values(one, "question") == [1, 5]
    assert pair_values(one, "token") == [0.5, 1]


@pytest.mark.parametrize("measure", ["throughput", "decode"])
def test_decode_and_throughput_are_seconds_per_token(measure):
    (found,) = compare([timing(measure, rows(1, 2, 3), rows(4, 4, 4))], seed=0)
    assert (found.unit, found.seconds, found.baseline_seconds) == ("token", 0.5, 1.0)
    assert (found.speedup, found.num_pairs) == (2.0, 3)
    assert found.low <= 2 <= found.high


@pytest.mark.parametrize(("measure", "unit"), [("latency", "question"), ("prefill", "pass")])
def test_latency_and_prefill_are_seconds_of_the_whole(measure, unit):
    (found,) = compare([timing(measure, rows(1, 2, 3), rows(4, 4, 4))], seed=0)
    assert (found.unit, found.seconds, found.speedup) == (unit, 2, 2)


def test_natural_lengths_are_compared_by_question_and_by_token():
    slow_but_short = rows(1, 1, tokens=2)
    question, token = compare([timing("natural", slow_but_short, rows(4, 4, tokens=8))], seed=0)
    assert (question.name, question.speedup) == ("natural", 4)
    assert (token.name, token.speedup) == ("natural_token", 1)
    assert (question.tokens, question.baseline_tokens) == (2, 8)


def test_metrics_are_flat_floats_by_name(make_engine):
    found = report(
        make_engine,
        timing("decode", rows(1, 1), rows(2, 2)),
        timing("throughput", rows(1, 1), rows(2, 2)),
        timing("natural", rows(1, 1, tokens=2), rows(2, 2)),
    ).metrics()
    assert all(type(value) is float for value in found.values())
    assert found["speed_decode_speedup"] == found["speed_decode_speedup_low"] == 2
    assert found["speed_decode_speedup_high"] == 2
    assert found["speed_decode_seconds"] == 0.25
    assert found["speed_decode_baseline_seconds"] == 0.5
    assert found["speed_throughput_tokens_per_second"] == 4
    assert found["speed_throughput_baseline_tokens_per_second"] == 2
    assert found["speed_natural_tokens"] == 2
    assert found["speed_natural_baseline_tokens"] == 4
    assert found["speed_weights_ratio"] == 1.5
    assert found["speed_num_threads"] == 2


def test_metrics_of_the_papers_protocol_share_no_name_with_the_default(make_engine):
    both = (timing("natural", rows(1, 1), rows(2, 2)),)
    paper = report(make_engine, *both, protocol=PAPER).metrics()
    assert paper["speed_paper_natural_speedup"] == 2
    assert not paper.keys() & report(make_engine, *both).metrics().keys()


def test_the_json_holds_every_sample_and_what_it_was_measured_with(make_engine):
    found = report(make_engine, timing("decode", rows(1, 3), rows(2, 2)), notes=("a note",))
    told = json.loads(json.dumps(found.to_json()))
    assert [row[0]["seconds"] for row in told["timings"][0]["model"]] == [1, 3]
    assert told["machine"]["start"]["load_average"] == 0.25
    assert told["weights"]["ratio"] == 1.5
    assert told["protocol"]["warmups"] == 2
    assert told["baseline"]["attention"] == "sdpa"
    assert told["notes"] == ["a note"]


def test_the_text_shows_the_bound_beside_the_decode_speedup(make_engine):
    text = "\n".join(lines(report(make_engine, timing("decode", rows(4, 4), rows(5, 5)))))
    assert "1.25x" in text
    assert "200.0 MB, baseline 300.0 MB: at most 1.50x" in text
    assert "decode reached 1.25x" in text
    assert "a chip, float32, attention sdpa, 2 threads" in text
    assert "load 0.25, CPU 2600 MHz" in text


def test_the_papers_caveat_and_the_tokens_of_both_stand_beside_its_number(make_engine):
    natural = timing("natural", rows(1, 1, tokens=2), rows(2, 2))
    text = "\n".join(lines(report(make_engine, natural, protocol=PAPER, notes=("a note",))))
    assert PAPER.caveat in text
    assert "2.0 against 4.0" in text
    assert "note: a note" in text
    assert "caveat" not in "\n".join(lines(report(make_engine, natural)))
