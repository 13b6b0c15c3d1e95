"""The authors' scripts to the letter: the first candidates by index, one `top_n` a round.

The oracle forms their sets one by one, from the signals themselves.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptl_plugins.criteria.released import LARGEST, RELEASED_BY_INDEX, SIGNALS, SMALLEST
from ptl_plugins.errors import PruneError, RecipeError
from ptl_plugins.geometry import Geometry
from ptl_plugins.recipe import RecipeSource, read_section
from ptl_plugins.selection import choose
from ptl_plugins.types import Cut, RoundSpec, Scores, top_of_round

NAME = "released_by_index"
WIDTH = 8


def scores_of(signals, protect=None):
    """Return the scores of one layer: per signal the last tokens' values, [sequences, width]."""
    statistics = {
        statistic.name: statistic.measure(torch.tensor(signals[statistic.site]))[None].numpy()
        for statistic in SMALLEST + LARGEST
    }
    return Scores(
        statistics=statistics, num_layers=1, width=WIDTH, num_tokens=1, num_sequences=1,
        protect=protect,
    )  # fmt: skip


def gone(registry, scores, number, top):
    cut = Cut(unit="neuron", criterion=NAME, selector="count", amount=number)
    original = Geometry(
        num_layers=1, width=WIDTH, hidden=4, vocabulary=16, tied=True, layer_fixed=20, per_neuron=12
    )
    plan = choose([cut], scores, registry, original=original, protect_top=top)
    return list(plan.removed_neurons[0])


def set_of(signals, top, sign):
    """Return the union over signals of what all sequences have among their `top` first."""
    union = set()
    for site in SIGNALS:
        sets = [set(np.argsort(sign * row, kind="stable")[:top].tolist()) for row in signals[site]]
        union |= set.intersection(*sets)
    return union


VALUES = st.lists(
    st.lists(st.integers(-9, 9), min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=3
)
CORPUS = st.fixed_dictionaries({site: VALUES for site in SIGNALS}).map(
    lambda found: {site: np.array(rows, np.float32) for site, rows in found.items()}
)


@settings(max_examples=150, deadline=None)
@given(CORPUS, CORPUS, st.integers(1, WIDTH - 1), st.integers(1, 4))
def test_the_first_candidates_by_index_go_as_in_the_scripts(registry, maths, english, top, number):
    expected = sorted(set_of(maths, top, 1) - set_of(english, top, -1))
    assume(len(expected) >= number)
    scores = scores_of(maths, scores_of(english))
    assert gone(registry, scores, number, top) == expected[:number]


def one_row(values):
    return {site: np.array([values], np.float32) for site in SIGNALS}


RISING, FALLING = one_row(range(WIDTH)), one_row(range(WIDTH, 0, -1))


def test_a_better_rank_further_back_does_not_go_first(registry):
    """What `released` would take: the lowest by rank, here the last ones."""
    scores = scores_of(FALLING, scores_of(FALLING))
    assert gone(registry, scores, 2, 4) == [4, 5]


def test_too_few_candidates_are_an_error_and_no_broken_width(registry):
    scores = scores_of(RISING, scores_of(FALLING))  # the three candidates are the protected
    with pytest.raises(PruneError) as raised:
        gone(registry, scores, 2, 3)
    assert str(raised.value) == (
        "2 neurons per layer shall go, but in layer 0 only 0 of 8 are candidates and not "
        "protected: 2 too many; protect more or fewer, or cut fewer"
    )


def test_without_a_protect_set_nobody_is_a_candidate(registry):
    with pytest.raises(PruneError, match=f"^criterion '{NAME}' takes its candidates among as many"):
        gone(registry, scores_of(RISING), 1, 0)
    assert RELEASED_BY_INDEX.candidates(scores_of(RISING), 2).tolist() == [[True] * 2 + [False] * 6]


# --- one `top` for each round ---


NEURON, LAYER = (Cut(unit=unit, criterion="x", selector="count", amount=1) for unit in
                 ("neuron", "layer"))  # fmt: skip
ROUNDS = tuple(
    RoundSpec(index=index, cuts=cuts)
    for index, cuts in enumerate([(NEURON,), (LAYER,), (LAYER, NEURON), ()], start=1)
)


def test_a_list_has_one_number_for_each_round_that_cuts_neurons():
    assert [top_of_round((12, 9), ROUNDS, each.index) for each in ROUNDS] == [12, 0, 9, 0]
    assert [top_of_round(5, ROUNDS, each.index) for each in ROUNDS] == [5, 0, 5, 0]


def section(registry, tmp_path, **keys):
    path = tmp_path / "recipe.yaml"
    source = RecipeSource(path=path, keys={}, text="", registry=registry, thorough=False)
    schedule = [{"unit": "neuron", "criterion": NAME, "amount": 1, "rounds": 2},
                {"unit": "layer", "amount": 1}]  # fmt: skip
    return read_section(source, {"schedule": schedule, **keys}, prefix="ptl")


def test_a_recipe_names_them_and_they_have_to_fit_the_rounds(registry, tmp_path):
    protect = {"data": "a/b", "top": [12, 9]}
    assert section(registry, tmp_path, protect=protect).protect.top == (12, 9)
    for keys, told in (
        ({"protect": {"data": "a/b", "top": [12, 9, 7]}},
         "protect.top: has 3 numbers, and 2 rounds cut neurons; give one number for each of them"),
        ({}, f"schedule.0.criterion: '{NAME}' needs protect: its `top` tells who is a candidate"),
    ):  # fmt: skip
        with pytest.raises(RecipeError) as raised:
            section(registry, tmp_path, **keys)
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)
