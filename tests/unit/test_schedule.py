"""Phases become rounds in every order, and rounds become shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.components import CutRequest
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


def cut(unit, amount, selector="count", criterion=None):
    criterion = criterion or {"neuron": "activation_max", "layer": "l2"}[unit]
    return Cut(unit=unit, criterion=criterion, selector=selector, amount=amount)


def cuts_of(rounds):
    """Return each round's cuts, without how many rounds are left to them."""
    return [tuple(replace(cut, rounds_left=1) for cut in spec.cuts) for spec in rounds]


def planned_of(*phases, order="listed", **options):
    return plan_rounds(expand(phases, order), START, REGISTRY, **options)


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
    assert cuts_of(rounds) == expected
    assert [spec.index for spec in rounds] == [1, 2, 3, 4, 5, 6, 7]


def test_alternating_goes_on_with_layers_when_neurons_run_out():
    phases = [Phase(cut=NEURON, rounds=1), Phase(cut=LAYER, rounds=3)]
    assert cuts_of(expand(phases, "alternating")) == [N, L, L, L]


def test_together_cuts_neurons_and_layers_in_one_round():
    phases = [Phase(cut=NEURON, rounds=3), Phase(cut=LAYER, rounds=2)]
    expected = [(LAYER, NEURON), (LAYER, NEURON), (NEURON,)]
    assert cuts_of(expand(phases, "together")) == expected
    assert cuts_of(expand(phases[::-1], "together")) == expected


@pytest.mark.parametrize("order", ["listed", "neuron_then_layer", "alternating", "together"])
def test_a_cut_knows_in_how_many_rounds_of_its_phase_it_is_still_to_be_made(order):
    rounds = expand([Phase(cut=NEURON, rounds=3), Phase(cut=LAYER, rounds=2)], order)
    for unit, left in (("neuron", [3, 2, 1]), ("layer", [2, 1])):
        cuts = [cut for spec in rounds for cut in spec.cuts if cut.unit == unit]
        assert [cut.rounds_left for cut in cuts] == left


def test_two_phases_of_one_unit_count_their_rounds_apart():
    rounds = expand([Phase(cut=NEURON, rounds=2), Phase(cut=OTHER, rounds=2)], "listed")
    assert [spec.cuts[0].rounds_left for spec in rounds] == [2, 1, 2, 1]


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
    got = [cuts[0] if cuts else None for cuts in cuts_of(rounds)]
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
    request = CutRequest(cut=LAYER, original=START, present=START, multiple_of=8)
    assert num_removed(request, REGISTRY) == 1


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 130), st.integers(1, 150), st.integers(1, 40))
def test_the_width_left_is_the_least_multiple_that_removes_no_more_than_asked(
    amount, width, multiple
):
    present = START.after(width=width, num_layers=3)
    request = CutRequest(
        cut=cut("neuron", amount), original=START, present=present, multiple_of=multiple
    )
    removed = num_removed(request, REGISTRY)
    left = width - removed
    assert 0 <= removed <= max(0, amount)
    assert removed == 0 or left % multiple == 0
    assert not [w for w in range(max(0, width - amount), left) if w % multiple == 0]


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
    with pytest.raises(PruneError) as raised:
        plan_rounds([RoundSpec(index=1, cuts=(cut,))], start, registry, multiple_of=16)
    assert str(raised.value) == (
        "round 1 would remove nothing: count 3 comes to none of 48 neurons (too little for the "
        "rounds, or met already, or multiple_of 16 rounds it away); change the amount or the rounds"
    )


# --- targets ---


@pytest.mark.parametrize("selector", ["parameters", "flops"])
@pytest.mark.parametrize("multiple", [1, 4])
def test_the_rounds_of_a_target_share_the_way_and_the_last_meets_it(selector, multiple):
    quantity = {"parameters": "num_parameters", "flops": "flops_per_token"}[selector]
    phase = Phase(cut=cut("neuron", 0.6, selector), rounds=4)
    shapes = [p.geometry for p in planned_of(phase, multiple_of=multiple)]
    steps = [a.width - b.width for a, b in zip([START, *shapes], shapes, strict=False)]
    assert max(steps) - min(steps) <= multiple
    last, most = shapes[-1], 0.6 * getattr(START, quantity)
    one_more = last.after(width=last.width + multiple, num_layers=last.num_layers)
    assert getattr(last, quantity) <= most < getattr(one_more, quantity)
    assert last.width % multiple == 0


def test_a_target_may_be_a_number_of_parameters():
    asked = 20_000
    (planned,) = planned_of(Phase(cut=cut("neuron", asked, "parameters"), rounds=1))
    width = planned.geometry.width
    assert planned.geometry.num_parameters <= asked
    assert START.after(width=width + 1, num_layers=10).num_parameters > asked


def test_together_a_target_of_neurons_counts_the_layers_of_its_own_round():
    phases = [
        Phase(cut=cut("neuron", 0.5, "parameters"), rounds=2),
        Phase(cut=LAYER, rounds=2),
    ]
    last = planned_of(*phases, order="together")[-1].geometry
    one_more = last.after(width=last.width + 1, num_layers=last.num_layers)
    assert last.num_layers == 8
    assert last.num_parameters <= 0.5 * START.num_parameters < one_more.num_parameters


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (
            [Phase(cut=cut("neuron", 0.99999, "flops"), rounds=3)],
            r"round 2 would remove nothing: flops 0\.99999 comes to none of 99 neurons \(too "
            r"little for the rounds, or met already\); change the amount or the rounds",
        ),
        (
            [
                Phase(cut=cut("layer", 5), rounds=1),
                Phase(cut=cut("neuron", 0.9, "flops"), rounds=2),
            ],
            r"round 2 would remove nothing: flops 0\.9 comes to none of 100 neurons",
        ),
        (
            [Phase(cut=cut("neuron", 10**9, "parameters"), rounds=1)],
            "round 1 would remove nothing: parameters 1B comes to none",
        ),
        ([Phase(cut=cut("neuron", 0.1, "parameters"), rounds=2)], "cannot be reached by cutting"),
    ],
)
def test_a_target_that_is_met_already_or_out_of_reach_is_refused(phases, message):
    with pytest.raises(PruneError, match=message) as raised:
        planned_of(*phases)
    assert "\n" not in str(raised.value)


# --- thresholds ---


def test_from_a_threshold_on_no_shape_is_known():
    phases = [
        Phase(cut=NEURON, rounds=1),
        Phase(cut=cut("neuron", 0.5, "threshold"), rounds=2),
        Phase(cut=LAYER, rounds=1),
        Phase(cut=None, rounds=1),
    ]
    shapes = [p.geometry for p in planned_of(*phases)]
    assert [shape is None for shape in shapes] == [False, True, True, True, True]
    assert shapes[0].width == 95


def test_a_threshold_of_zero_is_planned_like_any_other():
    (planned,) = planned_of(Phase(cut=cut("layer", 0.0, "threshold"), rounds=1))
    assert planned.geometry is None


# --- the protect set ---


@pytest.mark.parametrize(
    ("phase", "top", "message"),
    [
        (Phase(cut=cut("neuron", 60), rounds=1), 41, "round 1 removes 60 neurons per layer of 100"),
        (Phase(cut=cut("neuron", 20), rounds=4), 30, "round 4 removes 20 neurons per layer of 40"),
    ],
)
def test_what_is_protected_and_what_goes_have_to_fit(phase, top, message):
    with pytest.raises(PruneError, match=f"^{message}.*protect.top keeps {top}; protect fewer"):
        planned_of(phase, protect_top=top)


@pytest.mark.parametrize(
    "asked",
    [
        cut("neuron", 1),
        cut("neuron", 1, "threshold"),
        cut("neuron", 0.9, "flops"),
        cut("neuron", 1, criterion="released"),
    ],
)
def test_not_every_neuron_can_be_protected(asked):
    message = "^round 1 has 100 neurons per layer, and protect.top 100 protects them all; "
    with pytest.raises(PruneError, match=message):
        planned_of(Phase(cut=asked, rounds=1), protect_top=100)


@pytest.mark.parametrize(
    ("phase", "top"),
    [
        (Phase(cut=cut("neuron", 60), rounds=1), 40),
        (Phase(cut=cut("neuron", 1, "threshold"), rounds=1), 99),
        (Phase(cut=cut("layer", 9), rounds=1), 100),
        (Phase(cut=None, rounds=1), 100),
        # the authors' rule may protect fewer than `top`
        (Phase(cut=cut("neuron", 60, criterion="released"), rounds=1), 99),
    ],
)
def test_what_may_fit_is_planned(phase, top):
    assert len(planned_of(phase, protect_top=top)) == 1
