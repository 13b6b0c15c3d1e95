"""Scores and amounts by which nothing can be chosen: one line that says why."""

from __future__ import annotations

import numpy as np
import pytest

from ptl_plugins.criteria.taylor import TAYLOR
from ptl_plugins.errors import PruneError
from ptl_plugins.registry import Registry
from ptl_plugins.selection import choose
from ptl_plugins.types import Cut, Scores

from .conftest import array, cut, geometry_of, plan_of, scores_of


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused_with_the_layer(bad):
    neurons = np.ones((4, 6), np.float32)
    neurons[2, 5] = bad
    message = r"'n' is not finite in layer 2 of the scores \(1 of 24 values\).*nothing was removed$"
    with pytest.raises(PruneError, match=message):
        plan_of(scores_of(neurons), cut(amount=1))
    with pytest.raises(PruneError, match=message):
        plan_of(scores_of(neurons), cut(amount=9.0, selector="threshold"))
    layers = array([1.0, bad, 2.0])
    with pytest.raises(PruneError, match=r"'l' is not finite in layer 1 of .* \(1 of 3 values\)"):
        plan_of(scores_of(np.ones((3, 2), np.float32), layers), cut("layer", 1))


@pytest.mark.parametrize(("amount", "shortfall"), [(6, 1), (9, 4)])
def test_too_many_neurons_are_refused_with_the_shortfall(amount, shortfall):
    message = rf"{amount} neurons per layer shall go.*only 6.*: {shortfall} too many"
    with pytest.raises(PruneError, match=message):
        plan_of(scores_of(np.ones((2, 6), np.float32)), cut(amount=amount))


def test_too_many_layers_are_refused_with_the_shortfall():
    with pytest.raises(PruneError, match=r"3 layers shall go.*only 2.*: 2 too many"):
        plan_of(scores_of(np.ones((2, 6), np.float32)), cut("layer", 3))


def test_an_unreachable_target_is_refused_in_one_line():
    scores = scores_of(np.ones((2, 6), np.float32))
    with pytest.raises(PruneError, match=r"^flops 0\.1 cannot be reached by cutting neurons alone"):
        plan_of(scores, cut(amount=0.1, selector="flops"))


def test_a_missing_statistic_asks_for_another_profile(registry):
    scores = scores_of(np.ones((2, 6), np.float32))
    for statistics, held in ((scores.statistics, "l, n"), ({}, "none")):
        asked = Scores(statistics=statistics, num_layers=2, width=6, num_tokens=1, num_sequences=1)
        with pytest.raises(PruneError) as raised:
            choose([cut(name="output_change")], asked, registry, original=geometry_of(scores))
        assert str(raised.value) == (
            "criterion 'output_change' needs the statistic 'neuron_square_sum', which the scores "
            f"do not hold (they hold {held}); profile again"
        )


@pytest.mark.parametrize(
    ("asked", "given", "wanted"),
    [
        (cut(name="l"), [2], [2, 6]),
        (cut("layer", name="n"), [2, 6], [2]),
    ],
)
def test_an_importance_of_another_shape_is_refused(asked, given, wanted):
    with pytest.raises(PruneError) as raised:
        plan_of(scores_of(np.ones((2, 6), np.float32)), asked)
    told = f"gave an importance of shape {given}, but a {asked.unit} criterion of this model gives"
    assert f"{told} {wanted}" in str(raised.value)


def test_a_selector_that_gives_no_count_is_refused():
    with pytest.raises(PruneError, match="selector 'none' gave no count"):
        plan_of(scores_of(np.ones((2, 6), np.float32)), cut(selector="none"))


def test_scores_without_gradients_are_told_how_to_get_them():
    registry = Registry()
    registry.criteria.add("taylor", TAYLOR)
    scores = scores_of(array([[1, 2, 3]]))
    cut = Cut(unit="neuron", criterion="taylor", selector="count", amount=1)
    with pytest.raises(PruneError, match=r"'neuron_taylor_sum'.*; profile again with --gradients$"):
        choose([cut], scores, registry, original=geometry_of(scores))
