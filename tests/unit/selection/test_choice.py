"""What is chosen: properties over random scores, shapes and amounts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PruneError
from ptl_plugins.selection import lowest_per_layer

from .conftest import QUICK, array, cut, geometry_of, neuron_cases, plan_of, scores_of


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


def test_an_importance_may_be_whatever_numpy_takes_for_an_array():
    """A plugin's criterion may give a tensor, or another dtype."""
    rows = [[3, 1, 2], [1, 2, 3]]
    for values in (torch.tensor(rows), np.array(rows), np.array(rows, np.float64)):
        assert plan_of(scores_of(values), cut()).removed_neurons == ((1,), (0,))


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
