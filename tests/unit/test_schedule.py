"""Phases become rounds in every order, and rounds become shapes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.schedule import Phase, expand, num_removed, plan_rounds
from ptl_plugins.testing import COMMON
from ptl_plugins.types import Cut, RoundSpec

REGISTRY = build_registry(build_manager(autoload=False))
START = Geometry(
    num_layers=10, width=100, hidden=8, vocabulary=32, tied=True, layer_fixed=500, per_neuron=24
)


def cut(unit, amount, selector="count"):
    criterion = {"neuron": "activation_max", "layer": "l2"}[unit]
    return Cut(unit=unit, criterion=criterion, selector=selector, amount=amount)


NEURON, OTHER, LAYER = cut("neuron", 5), cut("neuron", 7), cut("layer", 1)
PHASES = [
    Phase(cut=NEURON, rounds=3),
    Phase(cut=None, rounds=1),
    Phase(cut=LAYER, rounds=2),
    Phase(cut=OTHER, rounds=1),
]
N, O, L, NONE = (NEURON,), (OTHER,), (LAYER,), ()  # noqa: E741


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("listed", [N, N, N, NONE, L, L, O]),
        ("neuron_then_layer", [N, N, N, O, L, L, NONE]),
        ("layer_then_neuron", [L, L, N, N, N, O, NONE]),
        ("alternating", [N, L, N, L, N, O, NONE]),
    ],
)
def test_orders_of_table_3(order, expected):
    rounds = expand(PHASES, order)
    assert [spec.cuts for spec in rounds] == expected
    assert [spec.index for spec in rounds] == [1, 2, 3, 4, 5, 6, 7]


def test_alternating_goes_on_with_layers_when_neurons_run_out():
    phases = [Phase(cut=NEURON, rounds=1), Phase(cut=LAYER, rounds=3)]
    assert [spec.cuts for spec in expand(phases, "alternating")] == [N, L, L, L]


def test_together_cuts_neurons_and_layers_in_one_round():
    phases = [Phase(cut=NEURON, rounds=3), Phase(cut=LAYER, rounds=2)]
    rounds = expand(phases, "together")
    assert [spec.cuts for spec in rounds] == [(NEURON, LAYER), (NEURON, LAYER), (NEURON,)]


@pytest.mark.parametrize("order", ["listed", "alternating", "together", "neuron_then_layer"])
def test_rounds_without_a_cut_are_recovery_only(order):
    assert [s.cuts for s in expand([Phase(cut=None, rounds=2)], order)] == [(), ()]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([NEURON, OTHER, LAYER, None]), st.integers(1, 4)), min_size=1
    ),
    st.sampled_from(["listed", "neuron_then_layer", "layer_then_neuron", "alternating"]),
)
def test_no_order_loses_or_adds_a_round(phases, order):
    rounds = expand([Phase(cut=c, rounds=n) for c, n in phases], order)
    wanted = [c for c, n in phases for _ in range(n)]
    got = [spec.cuts[0] if spec.cuts else None for spec in rounds]
    assert sorted(map(repr, got)) == sorted(map(repr, wanted))


def test_shapes_follow_round_by_round():
    planned = plan_rounds(expand(PHASES, "listed"), START, REGISTRY)
    shapes = [(p.geometry.width, p.geometry.num_layers) for p in planned]
    assert shapes == [(95, 10), (90, 10), (85, 10), (85, 10), (85, 9), (85, 8), (78, 8)]
    last = planned[-1].geometry
    assert last.non_embedding == 8 * (500 + 78 * 24) + 8
    assert last.num_parameters == last.non_embedding + 32 * 8


def test_fractions_are_of_the_original_size_in_every_round():
    phases = [Phase(cut=cut("neuron", 0.25, "fraction"), rounds=3)]
    planned = plan_rounds(expand(phases, "listed"), START, REGISTRY)
    assert [p.geometry.width for p in planned] == [75, 50, 25]


def test_the_width_is_a_multiple_in_every_round_and_never_below_what_was_asked():
    phases = [Phase(cut=cut("neuron", 9), rounds=4)]
    planned = plan_rounds(expand(phases, "listed"), START, REGISTRY, multiple_of=8)
    assert [p.geometry.width for p in planned] == [96, 88, 80, 72]


def test_layers_know_no_multiple():
    assert num_removed(LAYER, REGISTRY, original=10, present=10, multiple_of=8) == 1


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Phase(cut=cut("neuron", 30), rounds=4), r"round 4 removes 30 neurons.*only 10 are left"),
        (Phase(cut=cut("neuron", 50), rounds=2), r"round 2 removes 50 neurons.*only 50 are left"),
        (Phase(cut=cut("layer", 5), rounds=2), r"round 2 removes 5 layers, but only 5 are left"),
        (Phase(cut=cut("layer", 11), rounds=1), r"round 1 removes 11 layers, but only 10"),
    ],
)
def test_a_round_that_leaves_nothing_is_refused_by_number(phase, message):
    with pytest.raises(PruneError, match=message):
        plan_rounds(expand([phase], "listed"), START, REGISTRY)


def test_one_neuron_and_one_layer_may_be_what_is_left():
    phases = [Phase(cut=cut("neuron", 99), rounds=1), Phase(cut=cut("layer", 9), rounds=1)]
    planned = plan_rounds(expand(phases, "listed"), START, REGISTRY)
    assert (planned[-1].geometry.width, planned[-1].geometry.num_layers) == (1, 1)


def test_a_cut_that_multiple_of_rounds_away_is_refused(registry):
    cut = Cut(unit="neuron", criterion="activation_max", selector="count", amount=3)
    start = geometry({**COMMON, "model_type": "llama"}, registry.families.get("llama"))
    with pytest.raises(PruneError, match="round 1 would remove nothing"):
        plan_rounds([RoundSpec(index=1, cuts=(cut,))], start, registry, multiple_of=16)
