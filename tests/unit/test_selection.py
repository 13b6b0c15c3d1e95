"""What is chosen: properties over random scores, shapes and amounts."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.criteria import StatisticCriterion
from ptl_plugins.criteria.taylor import TAYLOR
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.plan_check import require_uniform
from ptl_plugins.registry import Registry
from ptl_plugins.schedule import plan_rounds
from ptl_plugins.selection import choose, lowest_per_layer
from ptl_plugins.selectors import FLOPS, PARAMETERS, Count, Fraction, Threshold
from ptl_plugins.types import Cut, RoundSpec, Scores

QUICK = settings(max_examples=60, deadline=None)


def criterion(unit, name):
    return StatisticCriterion(unit=unit, statistics=(), formula=lambda s: s.statistics[name])


def make_registry():
    registry = Registry()
    registry.criteria.add("n", criterion("neuron", "n"))
    registry.criteria.add("l", criterion("layer", "l"))
    registry.selectors.add("count", Count())
    registry.selectors.add("fraction", Fraction())
    registry.selectors.add("threshold", Threshold())
    registry.selectors.add("parameters", PARAMETERS)
    registry.selectors.add("flops", FLOPS)
    registry.selectors.add("none", SimpleNamespace(count=lambda request: None))
    registry.freeze()
    return registry


REGISTRY = make_registry()


def array(values):
    return np.array(values, np.float32)


def geometry_of(scores):
    return Geometry(
        num_layers=scores.num_layers, width=scores.width, hidden=4, vocabulary=16,
        tied=True, layer_fixed=20, per_neuron=12,
    )  # fmt: skip


def scores_of(neurons, layers=None, protect=None):
    depth, width = neurons.shape
    layers = np.arange(depth, dtype=np.float32) if layers is None else layers
    return Scores(
        statistics={"n": neurons, "l": layers},
        num_layers=depth,
        width=width,
        num_tokens=1,
        num_sequences=1,
        protect=protect,
    )


def cut(unit="neuron", amount=1, selector="count", name=None, rounds_left=1):
    return Cut(
        unit=unit,
        criterion=name or unit[0],
        selector=selector,
        amount=amount,
        rounds_left=rounds_left,
    )


def plan_of(scores, *cuts, original=None, **options):
    original = original or geometry_of(scores)
    return choose(cuts, scores, REGISTRY, original=original, digest="of the scores", **options)


@st.composite
def neuron_cases(draw):
    """Scores of few distinct values, so that ties are common, and an amount that fits."""
    depth, width = draw(st.integers(1, 5)), draw(st.integers(2, 24))
    values = draw(st.lists(st.integers(0, 4), min_size=depth * width, max_size=depth * width))
    scores = scores_of(array(values).reshape(depth, width))
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
    scores = scores_of(np.ones((len(values), 3), np.float32), array(values))
    plan = plan_of(scores, cut("layer", number))
    slow = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:number])
    assert plan.removed_layers == tuple(slow)
    assert plan.removed_neurons == ()


@QUICK
@given(
    st.integers(1, 6).flatmap(
        lambda depth: st.lists(
            st.lists(st.floats(-9, 9, width=32), min_size=7, max_size=7),
            min_size=depth,
            max_size=depth,
        )
    ),
    st.integers(0, 7),
)
def test_the_choice_is_that_of_torchs_stable_sort_as_it_was(rows, number):
    """Importances were torch tensors once; what is cut by the same scores has not changed."""
    order = torch.tensor(rows).sort(dim=-1, stable=True).indices[:, :number].sort(dim=-1).values
    assert lowest_per_layer(array(rows), number) == tuple(map(tuple, order.tolist()))


@QUICK
@given(st.integers(1, 200), st.floats(0, 0.999), st.integers(0, 100))
def test_a_fraction_is_of_the_original_width(present, fraction, gone):
    scores = scores_of(np.zeros((1, present), np.float32))
    original = geometry_of(scores).after(width=present + gone, num_layers=1)
    asked = cut(amount=fraction, selector="fraction")
    number = int(fraction * (present + gone) + 0.5)
    if number < present:
        assert plan_of(scores, asked, original=original).new_width == present - number
    else:
        with pytest.raises(PruneError, match=f"{number} neurons per layer shall go"):
            plan_of(scores, asked, original=original)


# --- thresholds ---


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


# --- targets, and two cuts in one round ---


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


def test_a_choice_depends_on_nothing_but_the_scores():
    rng = np.random.default_rng(0)
    scores = scores_of(rng.random((3, 16), np.float32).round(1))
    plans = [plan_of(scores, cut(amount=5), cut("layer", 1)) for _ in range(3)]
    assert len({plan.digest() for plan in plans}) == 1


def test_negative_zero_and_ties_do_not_upset_the_order():
    rows = array([[0.0, -0.0, 0.0, 1.0]])
    assert lowest_per_layer(rows, 2) == ((0, 1),)
    assert lowest_per_layer(rows, 0) == ((),)
    assert lowest_per_layer(array([[2, 1, 1, 1, 0]]), 3) == ((1, 2, 4),)


def test_a_choice_leaves_the_scores_as_they_are():
    neurons, layers = array([[3, 1, 2], [1, 2, 3]]), array([2, 1])
    before = neurons.copy(), layers.copy()
    plan_of(scores_of(neurons, layers), cut(amount=2), cut("layer", 1))
    assert (neurons == before[0]).all()
    assert (layers == before[1]).all()


# --- what is refused ---


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


def test_an_importance_may_be_whatever_numpy_takes_for_an_array():
    """A plugin's criterion may give a tensor, or another dtype."""
    rows = [[3, 1, 2], [1, 2, 3]]
    for values in (torch.tensor(rows), np.array(rows), np.array(rows, np.float64)):
        assert plan_of(scores_of(values), cut()).removed_neurons == ((1,), (0,))


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


def test_choosing_imports_no_torch():
    code = (
        "import sys\n"
        "import ptl_plugins.builtin, ptl_plugins.scores_file, ptl_plugins.selection\n"
        "from ptl_plugins.manager import build_manager, build_registry\n"
        "build_registry(build_manager())\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
