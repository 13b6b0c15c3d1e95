"""Recipes of any bytes and any keys: a recipe, or errors of one line, and nothing else."""

from __future__ import annotations

import copy

import fuzz_targets as targets
import pytest
from fuzz_inputs import RUN, TOKENS, TRAIN, WORDS, as_yaml, bounded, pieced, spoilt
from hypothesis import example, given
from hypothesis import strategies as st

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe_file import read_recipe


def test_what_is_spoilt_is_sound_at_first():
    """Else every example would stop at the same error."""
    for tree in (RUN, TRAIN):
        path = targets.workplace() / "recipe.yaml"
        path.write_text(as_yaml(tree), encoding="utf-8")
        assert read_recipe(path, *targets.host(), thorough=False).rounds


@bounded(60)
@given(st.binary(max_size=200))
@example(b"\xff\xfea\x00")
@example(b"a: " + b"[" * 5000)
@example(b"a: " + b"9" * 5000)
@example(b"a: 2001-99-99")
@example(b"? [a]\n: b")
@example(b"\xef\xbb\xbf---\nmodel: a\n---\nb: c\n")
def test_bytes(data):
    targets.recipe_file(data)


@bounded(80)
@given(pieced(TOKENS, 40))
def test_pieces_of_yaml(text):
    targets.recipe_file(text.encode(errors="surrogatepass"))


@bounded(150)
@given(spoilt(RUN))
def test_spoilt_keys_of_a_run(keys):
    targets.recipe_file(as_yaml(keys).encode(errors="surrogatepass"))


@bounded(100)
@given(spoilt(TRAIN))
def test_spoilt_keys_of_llamafactory(keys):
    targets.recipe_file(as_yaml(keys).encode(errors="surrogatepass"))


def test_a_short_file_does_not_plan_for_gigabytes():
    phases = [{"unit": "neuron", "amount": 1, "rounds": 1000}] * 1000
    text = as_yaml({**RUN, "schedule": [dict(phase) for phase in phases]})
    path = targets.workplace() / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"schedule: has 1000000 rounds; at most 10000"):
        read_recipe(path, *targets.host(), thorough=False)


@bounded(80)
@given(WORDS)
def test_words_of_set(words):
    targets.override_words(copy.deepcopy(RUN), words)
