"""The protect set: what a second corpus needs is never removed, whatever the first says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.criteria.released import LARGEST, SMALLEST
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.protection import least_protected, protected
from ptl_plugins.selection import choose
from ptl_plugins.types import Cut, Scores

QUICK = settings(max_examples=60, deadline=None)


def scores_of(values, protect=None, *, name="neuron_abs_max", **more):
    values = np.array(values, np.float32)
    depth, width = values.shape
    return Scores(
        statistics={name: values, **more},
        num_layers=depth,
        width=width,
        num_tokens=1,
        num_sequences=1,
        protect=protect,
    )


def plan_of(scores, registry, amount, top, *, criterion="activation_max", selector="count"):
    cut = Cut(unit="neuron", criterion=criterion, selector=selector, amount=amount)
    original = Geometry(
        num_layers=scores.num_layers, width=scores.width, hidden=4, vocabulary=16,
        tied=True, layer_fixed=20, per_neuron=12,
    )  # fmt: skip
    return choose([cut], scores, registry, original=original, protect_top=top)


@st.composite
def cases(draw):
    """Scores with ties of both corpora, an amount and how many are protected."""
    depth, width = draw(st.integers(1, 4)), draw(st.integers(2, 16))
    size = depth * width
    values = st.lists(st.integers(0, 4), min_size=size, max_size=size)
    first, second = (np.array(draw(values)).reshape(depth, width) for _ in range(2))
    top = draw(st.integers(1, width - 1))
    return scores_of(first, scores_of(second)), draw(st.integers(0, width - top)), top


@QUICK
@given(cases())
def test_a_protected_neuron_never_goes_and_the_least_important_others_do(registry, case):
    scores, number, top = case
    plan = plan_of(scores, registry, number, top)
    first = scores.statistics["neuron_abs_max"].tolist()
    second = scores.protect.statistics["neuron_abs_max"].tolist()
    for layer, gone in enumerate(plan.removed_neurons):
        by_need = sorted(range(scores.width), key=lambda i: (second[layer][i], i))
        kept = set(by_need[-top:])
        free = [i for i in range(scores.width) if i not in kept]
        expected = sorted(free, key=lambda i: (first[layer][i], i))[:number]
        assert list(gone) == sorted(expected)


@QUICK
@given(cases())
def test_as_many_are_protected_as_asked_and_none_that_another_outweighs(registry, case):
    scores, _, top = case
    importance = scores.statistics["neuron_abs_max"]
    mask = protected(registry.criteria.get("activation_max"), scores, top)
    assert (mask.sum(axis=1) == top).all()
    for values, kept in zip(importance, mask, strict=True):
        assert values[kept].min() >= values[~kept].max()


def test_without_a_top_nothing_is_protected_and_no_second_corpus_is_needed(registry):
    scores = scores_of([[1, 2, 3]])
    assert plan_of(scores, registry, 1, 0).removed_neurons == ((0,),)


def test_layers_know_no_protection(registry):
    scores = scores_of([[1, 2], [3, 4]], scores_of([[1, 2], [3, 4]]))
    cut = Cut(unit="layer", criterion="last", selector="count", amount=1)
    original = Geometry(
        num_layers=2, width=2, hidden=4, vocabulary=16, tied=True, layer_fixed=20, per_neuron=12
    )
    plan = choose([cut], scores, registry, original=original, protect_top=2)
    assert plan.removed_layers == (1,)


def test_a_threshold_does_not_reach_what_is_protected(registry):
    scores = scores_of([[1, 1, 9], [1, 1, 1]], scores_of([[9, 1, 1], [1, 9, 1]]))
    plan = plan_of(scores, registry, 5.0, 1, selector="threshold")
    assert plan.removed_neurons == ((1,), (0,))


def test_too_few_unprotected_are_refused_with_layer_and_shortfall(registry):
    scores = scores_of(np.ones((2, 6)), scores_of(np.ones((2, 6))))
    with pytest.raises(PruneError) as raised:
        plan_of(scores, registry, 4, 3)
    assert str(raised.value) == (
        "4 neurons per layer shall go, but in layer 0 only 3 of 6 are not protected: "
        "1 too many; protect fewer"
    )


@pytest.mark.parametrize("top", [6, 7])
def test_a_layer_that_is_protected_as_a_whole_is_refused(registry, top):
    scores = scores_of(np.ones((2, 6)), scores_of(np.ones((2, 6))))
    with pytest.raises(PruneError, match=f"^{top} of 6 neurons per layer shall be protected: all"):
        plan_of(scores, registry, 1, top)


def test_scores_without_a_protect_set_are_refused(registry):
    with pytest.raises(PruneError, match="2 neurons per layer shall be protected, but the scores "
                       "hold no protect set; profile with a second corpus"):  # fmt: skip
        plan_of(scores_of(np.ones((2, 6))), registry, 1, 2)


def test_a_protect_set_without_the_statistic_is_refused(registry):
    scores = scores_of(np.ones((2, 6)), scores_of(np.ones((2, 6)), name="neuron_abs_sum"))
    with pytest.raises(PruneError) as raised:
        plan_of(scores, registry, 1, 2)
    assert str(raised.value) == (
        "criterion 'activation_max' needs the statistic 'neuron_abs_max', which the scores of the "
        "protect set do not hold (they hold neuron_abs_sum); profile again"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_protect_set_that_is_not_finite_is_refused(registry, bad):
    second = np.ones((2, 6))
    second[1, 3] = bad
    with pytest.raises(PruneError, match="in layer 1 of the scores of the protect set"):
        plan_of(scores_of(np.ones((2, 6)), scores_of(second)), registry, 1, 2)


# --- the authors' own rule ---


def released_scores(smallest, largest, protect=None):
    """Scores of the rule: a row of ranks per signal, of one layer."""
    named = zip((*SMALLEST, *LARGEST), (*smallest, *largest), strict=True)
    statistics = {statistic.name: np.array([row], np.float32) for statistic, row in named}
    width = len(smallest[0])
    return Scores(
        statistics=statistics, num_layers=1, width=width, num_tokens=1, num_sequences=1,
        protect=protect,
    )  # fmt: skip


RANKS = [[0, 1, 2, 3, 4, 5]] * 3
FAR = [[5, 5, 5, 5, 5, 5]] * 3


def test_the_released_rule_protects_what_is_largest_by_any_signal(registry):
    """`top` is its `top_n`: the union over three signals may be more than `top` neurons."""
    largest = [[0, 5, 5, 5, 5, 5], [5, 0, 5, 5, 5, 5], [5, 5, 1, 5, 5, 5]]
    second = released_scores(FAR, largest)
    criterion = registry.criteria.get("released")
    assert protected(criterion, second, 1).tolist() == [[True, True, False, False, False, False]]
    assert protected(criterion, second, 2).tolist() == [[True, True, True, False, False, False]]
    plan = plan_of(released_scores(RANKS, FAR, second), registry, 2, 2, criterion="released")
    assert plan.removed_neurons == ((3, 4),)


def test_the_released_rule_may_protect_fewer_than_top(registry):
    """The sets of all sequences need not meet; so nothing is known before the scores are."""
    second = released_scores(FAR, FAR)
    assert not protected(registry.criteria.get("released"), second, 3).any()
    plan = plan_of(released_scores(RANKS, FAR, second), registry, 5, 3, criterion="released")
    assert plan.removed_neurons == ((0, 1, 2, 3, 4),)
    assert least_protected(registry.criteria.get("released"), 3) == 0
    assert least_protected(registry.criteria.get("output_change"), 3) == 3


def test_the_released_threshold_is_top_n_less_one(registry):
    """Candidates are among the `top_n` smallest of every sequence in any signal."""
    smallest = [[9, 9, 9, 0, 9, 9], [9, 2, 9, 9, 9, 9], [3, 9, 9, 9, 9, 9]]
    scores = released_scores(smallest, FAR)
    for top_n, gone in ((1, (3,)), (3, (1, 3)), (4, (0, 1, 3))):
        plan = plan_of(scores, registry, top_n - 1, 0, criterion="released", selector="threshold")
        assert plan.removed_neurons == (gone,)
