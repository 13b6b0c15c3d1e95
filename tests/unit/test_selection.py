"""What is chosen: properties over random scores, shapes and amounts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.criteria import StatisticCriterion
from ptl_plugins.errors import PruneError
from ptl_plugins.registry import Registry
from ptl_plugins.selection import Count, Fraction, Original, choose, lowest_per_layer
from ptl_plugins.types import Cut, Scores

QUICK = settings(max_examples=60, deadline=None)


def criterion(unit, name):
    return StatisticCriterion(unit=unit, statistics=(), formula=lambda s: s.statistics[name])


def make_registry():
    registry = Registry()
    registry.criteria.add("n", criterion("neuron", "n"))
    registry.criteria.add("l", criterion("layer", "l"))
    registry.selectors.add("count", Count())
    registry.selectors.add("fraction", Fraction())
    registry.freeze()
    return registry


REGISTRY = make_registry()


def scores_of(neurons, layers=None):
    depth, width = neurons.shape
    layers = torch.arange(depth, dtype=torch.float32) if layers is None else layers
    statistics = {"n": neurons, "l": layers}
    return Scores(
        statistics=statistics, num_layers=depth, width=width, num_tokens=1, num_sequences=1
    )


def cut(unit="neuron", amount=1, selector="count", name=None):
    return Cut(unit=unit, criterion=name or unit[0], selector=selector, amount=amount)


def plan_of(scores, *cuts, original=None, multiple_of=1):
    original = original or Original(width=scores.width, num_layers=scores.num_layers)
    return choose(
        cuts, scores, REGISTRY, original=original, multiple_of=multiple_of, digest="of the scores"
    )


@st.composite
def neuron_cases(draw):
    """Scores of few distinct values, so that ties are common, and an amount that fits."""
    depth, width = draw(st.integers(1, 5)), draw(st.integers(2, 24))
    values = draw(st.lists(st.integers(0, 4), min_size=depth * width, max_size=depth * width))
    scores = scores_of(torch.tensor(values, dtype=torch.float32).reshape(depth, width))
    return scores, draw(st.integers(0, width - 1)), draw(st.integers(1, 8))


@QUICK
@given(neuron_cases())
def test_the_lowest_neurons_of_every_layer_go_and_ties_go_by_index(case):
    scores, number, _ = case
    plan = plan_of(scores, cut(amount=number))
    rows = scores.statistics["n"].tolist()
    slow = [sorted(sorted(range(len(r)), key=lambda i: (r[i], i))[:number]) for r in rows]
    assert plan.removed_neurons == (tuple(map(tuple, slow)) if number else ())
    assert plan.new_width == scores.width - number


@QUICK
@given(neuron_cases())
def test_the_width_stays_uniform_and_indices_are_distinct_and_in_range(case):
    scores, number, _ = case
    plan = plan_of(scores, cut(amount=number))
    assert {len(row) for row in plan.removed_neurons} <= {number}
    for row in plan.removed_neurons:
        assert list(row) == sorted(set(row))
        assert set(row) <= set(range(scores.width))
        assert all(type(index) is int for index in row)


@QUICK
@given(neuron_cases())
def test_the_width_left_is_a_multiple_and_never_more_goes_than_asked(case):
    scores, number, multiple = case
    plan = plan_of(scores, cut(amount=number), multiple_of=multiple)
    removed = scores.width - plan.new_width
    assert 0 <= removed <= number
    assert removed == 0 or plan.new_width % multiple == 0
    smaller = [w for w in range(scores.width - number, plan.new_width) if w % multiple == 0]
    assert not smaller, "a smaller width would have fitted as well"


@QUICK
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_the_lowest_layers_go_and_ties_go_by_index(values, data):
    number = data.draw(st.integers(0, len(values) - 1))
    scores = scores_of(torch.ones(len(values), 3), torch.tensor(values, dtype=torch.float32))
    plan = plan_of(scores, cut("layer", number))
    slow = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:number])
    assert plan.removed_layers == tuple(slow)
    assert plan.removed_neurons == ()


@QUICK
@given(st.integers(1, 200), st.floats(0, 0.999), st.integers(0, 100))
def test_a_fraction_is_of_the_original_size_to_the_nearest_whole(present, fraction, gone):
    original = present + gone
    number = Fraction().count(fraction, original=original)
    assert abs(number - fraction * original) <= 0.5
    if number < present:
        scores = scores_of(torch.zeros(1, present))
        plan = plan_of(
            scores,
            cut(amount=fraction, selector="fraction"),
            original=Original(width=original, num_layers=1),
        )
        assert scores.width - plan.new_width == number


def test_a_choice_depends_on_nothing_but_the_scores():
    torch.manual_seed(0)
    scores = scores_of(torch.rand(3, 16).round(decimals=1))
    plans = [plan_of(scores, cut(amount=5), cut("layer", 1)) for _ in range(3)]
    assert len({plan.digest() for plan in plans}) == 1


def test_neurons_and_layers_of_one_round_are_chosen_from_the_same_scores():
    scores = scores_of(torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), torch.tensor([2.0, 1.0]))
    plan = plan_of(scores, cut(amount=1), cut("layer", 1))
    assert plan.removed_neurons == ((1,), (0,))
    assert plan.removed_layers == (1,)
    assert plan.criteria == {"neuron": "n", "layer": "l"}
    assert plan.scores_digest == "of the scores"


def test_infinite_ties_and_negative_zero_do_not_upset_the_order():
    rows = torch.tensor([[0.0, -0.0, 0.0, 1.0]])
    assert lowest_per_layer(rows, 2) == ((0, 1),)
    assert lowest_per_layer(rows, 0) == ((),)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused_with_the_layer(bad):
    neurons = torch.ones(4, 6)
    neurons[2, 5] = bad
    with pytest.raises(PruneError, match=r"'n' is not finite in layer 2 \(1 of 24 values\)"):
        plan_of(scores_of(neurons), cut(amount=1))
    layers = torch.tensor([1.0, bad, 2.0])
    with pytest.raises(PruneError, match=r"'l' is not finite in layer 1 \(1 of 3 values\)"):
        plan_of(scores_of(torch.ones(3, 2), layers), cut("layer", 1))


@pytest.mark.parametrize(("amount", "shortfall"), [(6, 1), (9, 4)])
def test_too_many_neurons_are_refused_with_the_shortfall(amount, shortfall):
    message = rf"{amount} neurons per layer shall go.*only 6.*: {shortfall} too many"
    with pytest.raises(PruneError, match=message):
        plan_of(scores_of(torch.ones(2, 6)), cut(amount=amount))


def test_too_many_layers_are_refused_with_the_shortfall():
    with pytest.raises(PruneError, match=r"3 layers shall go.*only 2.*: 2 too many"):
        plan_of(scores_of(torch.ones(2, 6)), cut("layer", 3))


@pytest.mark.parametrize(("amount", "wrong"), [(2.5, True), (3.0, False), (0, False)])
def test_count_takes_whole_numbers(amount, wrong):
    assert (Count().check(amount) is not None) is wrong


@pytest.mark.parametrize(("amount", "wrong"), [(1.0, True), (0.999, False), (0, False)])
def test_fraction_takes_what_is_below_one(amount, wrong):
    assert (Fraction().check(amount) is not None) is wrong
