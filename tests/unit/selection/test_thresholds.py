"""What is chosen by a threshold: nothing above it, and the same number of every layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PruneError
from ptl_plugins.plan_check import require_uniform

from .conftest import QUICK, array, cut, neuron_cases, plan_of, scores_of


@QUICK
@given(neuron_cases(), st.floats(-1, 4))
def test_with_a_threshold_nothing_above_it_goes_and_the_width_stays_uniform(case, sigma):
    scores, _, multiple = case
    importance = scores.statistics["n"]
    fewest = min(int((row <= np.float32(sigma)).sum()) for row in importance)
    if fewest == scores.width:
        return
    plan = plan_of(scores, cut(amount=sigma, selector="threshold"), multiple_of=multiple)
    removed = scores.width - plan.new_width
    require_uniform(plan)
    assert fewest - multiple < removed <= fewest
    for row, gone in zip(importance, plan.removed_neurons, strict=False):
        assert (row[list(gone)] <= np.float32(sigma)).all()
        assert set(gone) == set(row.argsort(kind="stable")[:removed].tolist())


def test_a_threshold_without_a_candidate_in_one_layer_removes_nothing():
    scores = scores_of(array([[1, 2, 3], [5, 6, 7]]))
    plan = plan_of(scores, cut(amount=4.0, selector="threshold"))
    assert (plan.removed_neurons, plan.removed_layers) == ((), ())
    assert (plan.new_width, plan.new_num_layers) == (3, 2)
    assert plan.criteria == {"neuron": "n"}
    assert plan.digest() == plan_of(scores, cut(amount=0)).digest()
    assert repr(plan) == "PrunePlan(width 3 -> 3, layers 2 -> 2)"
    require_uniform(plan)


@QUICK
@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.floats(-1, 5))
def test_of_layers_every_candidate_goes_and_one_has_to_stay(values, sigma):
    scores = scores_of(np.ones((len(values), 2), np.float32), array(values))
    asked = cut("layer", sigma, "threshold")
    candidates = tuple(i for i, v in enumerate(values) if v <= np.float32(sigma))
    if len(candidates) < len(values):
        assert plan_of(scores, asked).removed_layers == candidates
    else:
        with pytest.raises(PruneError, match=r"one has to stay: 1 too many$"):
            plan_of(scores, asked)


@pytest.mark.parametrize("how", ["dropped", "cut"])
def test_a_threshold_has_not_to_be_met_in_a_layer_that_goes_whole(how):
    neurons = array([[1, 1, 5, 5], [5, 5, 5, 5], [1, 1, 1, 5]])
    scores = scores_of(neurons, array([2, 1, 3]))
    threshold = cut(amount=1.0, selector="threshold")
    assert plan_of(scores, threshold).removed_neurons == ()
    if how == "dropped":
        plan = plan_of(scores, threshold, dropped=(1,))
    else:
        plan = plan_of(scores, cut("layer", 1), threshold)
    assert plan.new_width == 2
    assert plan.removed_neurons[0] == plan.removed_neurons[2] == (0, 1)
