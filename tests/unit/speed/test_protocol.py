"""Protocols: what may be asked for, and the paper's by name."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.prompts import PROMPTS, choose
from ptl_plugins.speed.protocol import DEFAULT, LOWEST, PAPER, Protocol, from_settings, named


def test_the_papers_protocol_is_that_of_the_released_scripts_and_has_its_caveat():
    assert named("paper") is PAPER
    assert (PAPER.warmups, PAPER.num_prompts, PAPER.max_natural_tokens) == (5, 10, 64)
    assert PAPER.measures == ("natural",)
    assert "stops earlier looks faster" in PAPER.caveat
    assert "2.6x" in PAPER.caveat
    assert not DEFAULT.caveat


def test_the_default_takes_every_measure():
    assert DEFAULT.measures == ("latency", "natural", "throughput", "prefill", "decode")


@pytest.mark.parametrize("key", sorted(LOWEST))
@pytest.mark.parametrize("value", [-1, 1.5, True, "4", None])
def test_a_number_out_of_range_is_named_with_its_key(key, value):
    with pytest.raises(PTLError, match=f"^{key}: .* is not a whole number of at least"):
        Protocol(**{key: value})


def test_no_warmup_is_allowed_and_no_new_token_is_not():
    assert Protocol(warmups=0).warmups == 0
    with pytest.raises(PTLError, match="new_tokens: 0"):
        Protocol(new_tokens=0)


def test_one_repeat_is_refused_where_it_gives_a_single_pair():
    with pytest.raises(PTLError, match=r"repeats: 1 gives one pair of 'decode'.*at least 2"):
        Protocol(repeats=1, measures=("decode",))
    assert Protocol(repeats=1, num_prompts=3, measures=("latency",)).num_pairs("latency") == 3


def test_settings_of_a_recipe_change_a_named_protocol():
    found = from_settings({"protocol": "paper", "warmups": 1, "baseline": "x"})
    assert (found.name, found.warmups, found.num_prompts) == ("paper", 1, 10)
    assert found.caveat


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"protocol": "papr"}, "protocol: 'papr' is unknown (did you mean 'paper'?)"),
        ({"protocol": ["paper"]}, "protocol: ['paper'] is unknown"),
        ({"measures": ["decod"]}, "measures: 'decod' is unknown (did you mean 'decode'?)"),
        ({"measures": "decode"}, "measures: 'decode' is not a list"),
        ({"measures": []}, "measures: is empty"),
        ({"measures": ["decode", "decode"]}, "names one twice"),
        ({"measures": [{"a": 1}]}, "measures: {'a': 1} is unknown"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, text):
    with pytest.raises(PTLError) as caught:
        from_settings(settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_are_prompts_enough_for_both_protocols_and_they_differ():
    assert len(set(PROMPTS)) == len(PROMPTS) >= max(PAPER.num_prompts, DEFAULT.num_prompts)
    assert choose(None, 3) == PROMPTS[:3]
    assert choose(["a", "b"], 1) == ("a",)


def test_too_few_and_empty_prompts_are_refused():
    with pytest.raises(PTLError, match="3 prompts are wanted and there are 1"):
        choose(["a"], 3)
    with pytest.raises(PTLError, match="number 1 is ' '"):
        choose(["a", " "], 2)
