"""The two rounds that take the place of one whose training diverged."""

from __future__ import annotations

import dataclasses

import pytest

from ptl_plugins.divergence import Failure
from ptl_plugins.half_steps import halves_of, in_smaller_steps, split_round
from ptl_plugins.types import Cut, PrunePlan, RoundSpec, top_of_round

NEURONS = Cut(unit="neuron", criterion="output_change", selector="count", amount=10.0)
LAYERS = Cut(unit="layer", criterion="l2", selector="count", amount=3.0, rounds_left=2)


def plan(neurons=0, layers=0, width=48, hidden=None):
    return PrunePlan(
        num_layers=8,
        width=width,
        removed_neurons=(tuple(range(neurons)),) * 8 if neurons else (),
        removed_layers=tuple(range(layers)),
        criteria={},
        scores_digest="",
        new_hidden=hidden,
    )


def spec(*cuts, index=2):
    return RoundSpec(index=index, cuts=cuts)


def amounts(halves):
    return [[(cut.unit, cut.selector, cut.amount) for cut in cuts] for cuts in halves]


@pytest.mark.parametrize("number", range(2, 30))
@pytest.mark.parametrize("multiple_of", [1, 4, 8])
@pytest.mark.parametrize("width", [48, 50])
def test_both_halves_remove_what_the_round_would_have_and_the_first_no_more(
    number, multiple_of, width
):
    left = -(-(width - number) // multiple_of) * multiple_of  # as a cut rounds
    number = width - left
    halves = halves_of(spec(NEURONS), plan(number, width=width), multiple_of=multiple_of)
    if halves is None:
        assert number < 2 * multiple_of
        return
    (first,), (rest,) = halves
    assert first.amount + rest.amount == number
    assert 0 < first.amount <= number / 2
    assert (width - first.amount) % multiple_of == 0


def test_a_half_counts_whatever_the_recipe_counted_by():
    target = dataclasses.replace(NEURONS, selector="parameters", amount=0.7, rounds_left=4)
    ((first,), (rest,)) = halves_of(spec(target), plan(9), multiple_of=1)
    assert (first.selector, first.amount, first.rounds_left) == ("count", 4.0, 1)
    assert (rest.selector, rest.amount, rest.rounds_left) == ("count", 5.0, 1)
    assert first.criterion == rest.criterion == "output_change"


def test_the_second_half_of_a_threshold_is_the_threshold():
    sigma = dataclasses.replace(NEURONS, selector="threshold", amount=0.25)
    ((first,), (rest,)) = halves_of(spec(sigma), plan(9), multiple_of=1)
    assert (first.selector, first.amount) == ("count", 4.0)
    assert rest == sigma


def test_one_layer_waits_for_the_second_round():
    halves = halves_of(spec(LAYERS, NEURONS), plan(10, layers=1), multiple_of=1)
    assert amounts(halves) == [
        [("neuron", "count", 5.0)],
        [("layer", "count", 1.0), ("neuron", "count", 5.0)],
    ]


def test_layers_are_halved():
    halves = halves_of(spec(LAYERS), plan(layers=3), multiple_of=8)
    assert amounts(halves) == [[("layer", "count", 1.0)], [("layer", "count", 2.0)]]


@pytest.mark.parametrize(
    ("cut", "what"),
    [
        (NEURONS, plan(1)),
        (LAYERS, plan(layers=1)),
        (NEURONS, plan()),
        (Cut(unit="hidden", criterion="slicegpt", selector="count", amount=8.0), plan(hidden=8)),
    ],
    ids=["one neuron", "one layer", "nothing", "slicing"],
)
def test_what_has_no_half_is_not_halved(cut, what):
    assert halves_of(spec(cut), what, multiple_of=1) is None


def test_later_rounds_move_on_and_keep_what_the_recipe_gave_them():
    rounds = tuple(spec(NEURONS, index=index) for index in (1, 2, 3))
    halves = halves_of(rounds[1], plan(10), multiple_of=1)
    taken = split_round(rounds, 2, halves)
    assert [each.index for each in taken] == [1, 2, 3, 4]
    assert [each.planned for each in taken] == [1, 2, 2, 3]
    assert taken[0] == rounds[0]
    assert taken[3].cuts == rounds[2].cuts
    again = split_round(taken, 3, halves_of(taken[2], plan(5), multiple_of=1))
    assert [each.planned for each in again] == [1, 2, 2, 2, 3]
    assert [each.cuts[0].amount for each in again] == [10, 5, 2, 3, 10]
    tops = [top_of_round((7, 8, 9), again, each.index) for each in again]
    assert tops == [7, 8, 8, 8, 9], "a list of protect.top has a number per round of the recipe"


def test_failures_are_taken_in_their_order():
    rounds = tuple(spec(NEURONS, index=index) for index in (1, 2))
    first = halves_of(rounds[0], plan(10), multiple_of=1)
    second = halves_of(rounds[1], plan(10), multiple_of=1)
    facts = {"reason": "", "last_good": "", "time": 0.0}
    failures = [
        Failure(round=1, planned=1, halves=first, **facts),
        Failure(round=3, planned=2, halves=second, **facts),
    ]
    taken = in_smaller_steps(rounds, failures)
    assert [each.planned for each in taken] == [1, 1, 2, 2]
    assert in_smaller_steps(rounds, []) == rounds
