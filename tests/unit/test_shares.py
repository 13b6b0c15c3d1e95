"""How the rounds share the corpus: equally, by what they remove, or half of it for the last."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.schedule import Phase, expand, plan_rounds
from ptl_plugins.shares import (
    final_weights,
    part_weights,
    proportional_weights,
    removed_parameters,
)
from ptl_plugins.testing import COMMON
from ptl_plugins.types import Cut

REGISTRY = build_registry(build_manager(autoload=False))
START = Geometry(
    num_layers=10, width=100, hidden=8, vocabulary=32, tied=True, layer_fixed=500, per_neuron=24
)


def cut(unit, amount, selector="count"):
    criterion = {"neuron": "activation_max", "layer": "l2", "hidden": "slicegpt"}[unit]
    return Cut(unit=unit, criterion=criterion, selector=selector, amount=amount)


@pytest.fixture
def weights(make_recipe):
    """Return the weights of phases' rounds under a value of `tokens`."""

    def find(tokens, *phases, among=None, start=START, **keys):
        rounds = expand([Phase(cut=what, rounds=number) for what, number in phases], "listed")
        recipe = make_recipe(tokens=tokens, rounds=rounds, **keys)
        return part_weights(recipe, start, REGISTRY, among=among)

    return find


def test_equal_is_the_default_and_asks_for_no_shape(weights, make_recipe):
    assert make_recipe().tokens == "equal"
    assert weights("equal", (cut("neuron", 0.1, "threshold"), 3), start=None) == (1, 1, 1)


@given(st.integers(1, 1000))
def test_final_gives_the_last_round_half_and_the_others_the_rest_equally(number):
    found = final_weights(number)
    assert len(found) == number
    assert Fraction(found[-1], sum(found)) == (Fraction(1, 2) if number > 1 else 1)
    assert len(set(found[:-1])) <= 1
    assert min(found) > 0


def test_final_needs_no_shape_and_one_round_has_all(weights):
    assert weights("final", (cut("neuron", 0.1, "threshold"), 4), start=None) == (1, 1, 1, 3)
    assert weights("final", (None, 1)) == (1,)


def test_proportional_shares_by_the_parameters_that_go(weights):
    """10 neurons of 10 layers of 24 parameters, then a layer of 500 + 80 x 24."""
    found = weights("proportional", (cut("neuron", 10), 2), (cut("layer", 1), 1))
    assert found == (120, 120, 121), "2400 : 2400 : 2420"


def test_the_count_is_what_multiple_of_leaves(weights):
    phases = (cut("neuron", 10), 1), (cut("neuron", 24), 1)
    assert weights("proportional", *phases) == (5, 12)
    assert weights("proportional", *phases, multiple_of=8) == (1, 6), "100 -> 96 -> 72"


def test_a_round_that_cuts_nothing_counts_like_the_mean_of_those_that_cut(weights):
    found = weights("proportional", (cut("neuron", 10), 1), (cut("neuron", 20), 1), (None, 2))
    assert found == (2, 4, 3, 3)


def test_where_no_round_cuts_all_parts_are_equal(weights):
    assert weights("proportional", (None, 3)) == (1, 1, 1)


def test_a_stage_of_some_rounds_shares_among_them(weights):
    phases = (cut("neuron", 10), 1), (cut("neuron", 20), 2), (None, 1)
    assert weights("equal", *phases, among=(2, 3)) == (1, 1)
    assert weights("final", *phases, among=(1, 3)) == (1, 1, 2)
    whole = weights("proportional", *phases)
    assert weights("proportional", *phases, among=(1, 2)) == whole[:2]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30))
def test_weights_have_the_ratios_of_what_goes(removed):
    found = proportional_weights(removed)
    cutting = [number for number in removed if number]
    mean = Fraction(sum(cutting), len(cutting)) if cutting else 1
    asked = [number or mean for number in removed]
    assert [Fraction(w, sum(found)) for w in found] == [Fraction(a) / sum(asked) for a in asked]
    assert all(isinstance(weight, int) and weight > 0 for weight in found)


@given(st.lists(st.tuples(st.sampled_from(["neuron", "layer"]), st.integers(1, 9)), max_size=6))
def test_what_the_rounds_remove_adds_up_to_what_the_run_removes(phases):
    """Of every schedule that leaves something."""
    rounds = expand([Phase(cut=cut(unit, amount), rounds=1) for unit, amount in phases], "listed")
    if sum(amount for unit, amount in phases if unit == "layer") >= START.num_layers:
        return
    planned = plan_rounds(rounds, START, REGISTRY)
    last = planned[-1].geometry if planned else START
    removed = removed_parameters(planned, START)
    assert sum(removed) == START.num_parameters - last.num_parameters


def test_where_only_the_scores_can_tell_proportional_is_refused_in_one_line(weights):
    phases = (cut("neuron", 10), 1), (cut("neuron", 0.1, "threshold"), 2)
    with pytest.raises(PTLError) as raised:
        weights("proportional", *phases)
    (line,) = str(raised.value).splitlines()
    assert "of round 2 only the scores can tell (selector 'threshold'); use equal or final" in line


def test_slicing_that_adds_parameters_is_refused_and_other_slicing_counts(weights, registry):
    start = geometry(COMMON, registry.families.get("llama"))
    found = weights("proportional", (cut("neuron", 8), 1), (cut("hidden", 16), 1), start=start)
    assert min(found) > 0
    with pytest.raises(PTLError, match=r"round 1 adds \d+, as slicing may; use equal or final"):
        weights("proportional", (cut("hidden", 1), 1), start=start)
