"""What is chosen for a target, and by two cuts in one round."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PruneError
from ptl_plugins.schedule import plan_rounds
from ptl_plugins.types import RoundSpec

from .conftest import QUICK, REGISTRY, array, cut, geometry_of, plan_of, scores_of


@QUICK
@given(st.integers(2, 8), st.integers(2, 60), st.floats(0.4, 0.95), st.sampled_from([1, 4]))
def test_what_is_chosen_is_what_was_planned(depth, width, ratio, multiple):
    """The plan from the config alone and the choice by scores agree on every size."""
    scores = scores_of(np.ones((depth, width), np.float32))
    start = geometry_of(scores)
    cuts = (cut("layer", 1), cut(amount=ratio, selector="flops"))
    try:
        (planned,) = plan_rounds(
            [RoundSpec(index=1, cuts=cuts)], start, REGISTRY, multiple_of=multiple
        )
    except PruneError:
        return
    plan = plan_of(scores, *cuts, multiple_of=multiple)
    assert (plan.new_width, plan.new_num_layers) == (
        planned.geometry.width,
        planned.geometry.num_layers,
    )


def test_a_target_of_neurons_counts_the_layers_that_go_before_them():
    scores = scores_of(array(np.arange(80)).reshape(4, 20))
    start = geometry_of(scores)
    neurons, layers = cut(amount=0.5, selector="parameters"), cut("layer", 1)
    alone, both = plan_of(scores, neurons), plan_of(scores, layers, neurons)
    left = start.after(width=both.new_width, num_layers=both.new_num_layers)
    one_more = start.after(width=both.new_width + 1, num_layers=both.new_num_layers)
    assert both.new_width > alone.new_width
    assert left.num_parameters <= 0.5 * start.num_parameters < one_more.num_parameters


def test_a_target_of_layers_counts_the_neurons_that_go_before_them():
    scores = scores_of(array(np.arange(80)).reshape(4, 20))
    layers, neurons = cut("layer", 0.6, "parameters"), cut(amount=8)
    assert len(plan_of(scores, layers).removed_layers) == 2
    assert len(plan_of(scores, neurons, layers).removed_layers) == 1


def test_a_target_counts_layers_that_go_in_another_way():
    """`ptl prune --drop-layers` says so by `dropped`."""
    scores = scores_of(array(np.arange(80)).reshape(4, 20))
    neurons = cut(amount=0.5, selector="parameters")
    plan = plan_of(scores, neurons, dropped=(3,))
    assert plan.new_width == plan_of(scores, cut("layer", 1), neurons).new_width
    assert (plan.width, plan.num_layers, plan.removed_layers) == (20, 4, (3,))
    assert plan.criteria == {"layer": "named", "neuron": "n"}


def test_the_rounds_of_a_target_meet_it_on_the_scores_of_each():
    start, width, widths = geometry_of(scores_of(np.ones((2, 50), np.float32))), 50, []
    for left in (3, 2, 1):
        asked = cut(amount=0.6, selector="flops", rounds_left=left)
        scores = scores_of(np.ones((2, width), np.float32))
        width = plan_of(scores, asked, original=start).new_width
        widths.append(width)
    end = start.after(width=width, num_layers=2)
    assert end.flops_per_token <= 0.6 * start.flops_per_token
    steps = [before - after for before, after in zip([50, *widths], widths, strict=False)]
    assert max(steps) - min(steps) <= 1


def test_neurons_and_layers_of_one_round_are_chosen_from_the_same_scores():
    scores = scores_of(array([[3, 1, 2], [1, 2, 3]]), array([2, 1]))
    for cuts in ((cut(amount=1), cut("layer", 1)), (cut("layer", 1), cut(amount=1))):
        plan = plan_of(scores, *cuts)
        assert plan.removed_neurons == ((1,), (0,))
        assert plan.removed_layers == (1,)
        assert plan.criteria == {"neuron": "n", "layer": "l"}
        assert plan.scores_digest == "of the scores"
