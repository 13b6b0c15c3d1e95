"""How amounts are read: properties over random sizes, amounts, rounds and multiples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptl_plugins.components import CutRequest
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.schedule import num_removed
from ptl_plugins.selectors import FLOPS, PARAMETERS, Count, Fraction, Threshold, resized, size_of
from ptl_plugins.types import Cut

QUICK = settings(max_examples=150, deadline=None)
UNITS = ("neuron", "layer")
START = Geometry(
    num_layers=10, width=100, hidden=8, vocabulary=32, tied=True, layer_fixed=500, per_neuron=24
)
VALUE = {"parameters": "num_parameters", "flops": "flops_per_token"}


def cut(amount, selector="count", unit="neuron", rounds_left=1):
    criterion = "output_change" if unit == "neuron" else "l2"
    return Cut(
        unit=unit, criterion=criterion, selector=selector, amount=amount, rounds_left=rounds_left
    )


def request_of(present, cut, *, original=None, multiple_of=1, importance=None):
    return CutRequest(
        cut=cut,
        original=original or present,
        present=present,
        multiple_of=multiple_of,
        importance=importance,
    )


def value(geometry, selector):
    return getattr(geometry, VALUE[selector])


@st.composite
def geometries(draw):
    hidden = draw(st.integers(1, 64))
    return Geometry(
        num_layers=draw(st.integers(1, 40)),
        width=draw(st.integers(1, 3000)),
        hidden=hidden,
        vocabulary=draw(st.integers(1, 500)),
        tied=draw(st.booleans()),
        layer_fixed=draw(st.integers(1, 20_000)),
        per_neuron=3 * hidden,
    )


# --- count, fraction ---


@pytest.mark.parametrize(("amount", "wrong"), [(2.5, True), (3.0, False), (0, False)])
def test_count_takes_whole_numbers(amount, wrong):
    assert (Count().check(cut(amount)) is not None) is wrong


@pytest.mark.parametrize(("amount", "wrong"), [(1.0, True), (0.999, False), (0, False)])
def test_fraction_takes_what_is_below_one(amount, wrong):
    assert (Fraction().check(cut(amount)) is not None) is wrong


@QUICK
@given(geometries(), st.floats(0, 0.999), st.sampled_from(UNITS), st.data())
def test_a_fraction_is_of_the_original_size_to_the_nearest_whole(start, amount, unit, data):
    present = resized(start, unit, data.draw(st.integers(1, size_of(start, unit))))
    asked = cut(amount, "fraction", unit)
    number = Fraction().count(request_of(present, asked, original=start))
    assert abs(number - amount * size_of(start, unit)) <= 0.5


@given(geometries(), st.integers(1, 100), st.sampled_from(UNITS))
def test_another_size_changes_that_size_alone(start, size, unit):
    other = "layer" if unit == "neuron" else "neuron"
    changed = resized(start, unit, size)
    assert size_of(changed, unit) == size
    assert size_of(changed, other) == size_of(start, other)
    assert changed.hidden == start.hidden


# --- threshold ---


@st.composite
def importances(draw):
    """Importances with ties, some of them protected (infinite)."""
    depth, width = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    low = st.integers(0, 5).map(float)
    values = st.lists(low | st.just(float("inf")), min_size=depth * width, max_size=depth * width)
    return np.array(draw(values), np.float32).reshape(depth, width)


@QUICK
@given(importances(), st.floats(0, 6, width=32))
def test_a_threshold_counts_the_candidates_of_the_layer_with_the_fewest(importance, sigma):
    asked = request_of(START, cut(sigma, "threshold"), importance=importance)
    fewest = min(sum(v <= sigma for v in row) for row in importance.tolist())
    assert Threshold().count(asked) == fewest


@pytest.mark.parametrize("sigma", [3.5e38, 1e300])
def test_a_threshold_beyond_fp32_takes_all_but_the_protected(sigma):
    """pytest turns numpy's overflow warning into an error."""
    importance = np.array([[1.0, np.inf, 3e38]], np.float32)
    asked = request_of(START, cut(sigma, "threshold"), importance=importance)
    assert Threshold().count(asked) == 2


def test_a_threshold_takes_an_importance_that_is_equal_to_it_in_fp32():
    importance = np.array([0.1, 0.2, 0.3], np.float32)
    asked = request_of(START, cut(0.2, "threshold", "layer"), importance=importance)
    assert Threshold().count(asked) == 2


def test_a_threshold_is_unknown_before_the_scores():
    assert Threshold().count(request_of(START, cut(0.2, "threshold"))) is None
    assert Threshold().check(cut(0.0, "threshold")) is None


# --- targets ---


@pytest.mark.parametrize(
    ("selector", "amount", "line"),
    [
        (PARAMETERS, 0.5, None),
        (PARAMETERS, 5e9, None),
        (PARAMETERS, 1000, None),
        (PARAMETERS, 1, "1 is not a ratio of the original between 0 and 1, or a number of "
         "parameters such as 5B (selector 'parameters')"),
        (PARAMETERS, 999, "999 is not a ratio"),
        (PARAMETERS, 0, "0 is not a ratio"),
        (FLOPS, 0.999, None),
        (FLOPS, 1, "1 is not a ratio of the original between 0 and 1 (selector 'flops')"),
        (FLOPS, 5e9, "5B is not a ratio"),
        (FLOPS, 0, "0 is not a ratio"),
    ],
)  # fmt: skip
def test_a_target_is_a_ratio_or_a_number(selector, amount, line):
    wrong = selector.check(cut(amount, selector.name))
    assert (wrong is None) if line is None else wrong.startswith(line)


@st.composite
def targets(draw):
    """Return (geometry, cut, multiple_of, what may be left at most)."""
    start, selector = draw(geometries()), draw(st.sampled_from([PARAMETERS, FLOPS]))
    unit, multiple = draw(st.sampled_from(UNITS)), draw(st.sampled_from([1, 1, 8, 64, 128]))
    amount = draw(st.floats(0.01, 0.99))
    most = amount * value(start, selector.name)
    if selector is PARAMETERS and draw(st.booleans()) and most >= 1000:
        amount = most = float(int(most))
    return start, cut(amount, selector.name, unit), multiple, most


@QUICK
@given(targets())
def test_a_target_is_met_and_one_more_of_each_layer_would_exceed_it(registry, case):
    start, asked, multiple, most = case
    try:
        number = num_removed(request_of(start, asked, multiple_of=multiple), registry)
    except PruneError:
        assume(False)
    size = size_of(start, asked.unit) - number
    step = multiple if asked.unit == "neuron" else 1
    assert size >= 1
    assert value(resized(start, asked.unit, size), asked.selector) <= most
    assert value(resized(start, asked.unit, size + step), asked.selector) > most
    assert size % step == 0


@QUICK
@given(targets())
def test_a_target_is_refused_only_where_the_least_size_exceeds_it(case):
    start, asked, multiple, most = case
    selector = PARAMETERS if asked.selector == "parameters" else FLOPS
    least = multiple if asked.unit == "neuron" else 1
    reachable = value(resized(start, asked.unit, least), asked.selector) <= most
    request = request_of(start, asked, multiple_of=multiple)
    if reachable:
        assert selector.count(request) >= 0
    else:
        with pytest.raises(PruneError, match=rf"^{asked.selector} .* {asked.unit}s alone: .*$"):
            selector.count(request)


@QUICK
@given(targets(), st.integers(1, 12))
def test_the_rounds_of_a_target_share_the_way_and_the_last_meets_it(registry, case, rounds):
    start, asked, multiple, most = case
    present, removed = start, []
    for left in range(rounds, 0, -1):
        this = cut(asked.amount, asked.selector, asked.unit, rounds_left=left)
        request = request_of(present, this, original=start, multiple_of=multiple)
        try:
            removed.append(num_removed(request, registry))
        except PruneError:
            assume(False)
        present = resized(present, asked.unit, size_of(present, asked.unit) - removed[-1])
    way, step = sum(removed), multiple if asked.unit == "neuron" else 1
    assert value(present, asked.selector) <= most
    assert value(resized(present, asked.unit, size_of(present, asked.unit) + step),
                 asked.selector) > most  # fmt: skip
    assert all(abs(number - way / rounds) <= 2 * step for number in removed)
    if step == 1:  # the earlier rounds take what does not divide
        assert removed == sorted(removed, reverse=True)
        assert removed[0] - removed[-1] <= 1


def test_a_target_of_several_rounds_counts_what_others_removed_meanwhile(registry):
    """Layers that go between two rounds shorten the way that is left."""
    asked = cut(0.5, "parameters", rounds_left=2)
    alone = num_removed(request_of(START, asked), registry)
    fewer = request_of(resized(START, "layer", 8), asked, original=START)
    assert 0 < num_removed(fewer, registry) < alone


def test_a_target_that_is_met_takes_nothing_more(registry):
    small = request_of(resized(START, "neuron", 20), cut(0.9, "flops"), original=START)
    assert FLOPS.count(small) == num_removed(small, registry) == 0


def test_an_unreachable_target_names_what_would_be_left():
    with pytest.raises(PruneError) as raised:
        PARAMETERS.count(request_of(START, cut(0.2, "parameters"), multiple_of=32))
    least = resized(START, "neuron", 32).num_parameters
    assert str(raised.value) == (
        "parameters 0.2 cannot be reached by cutting neurons alone: width 32 still leaves "
        f"{least:,} parameters, and {0.2 * START.num_parameters:,.0f} are asked for; "
        "ask for more, or cut the other unit as well"
    )
    with pytest.raises(PruneError, match=r"layers alone: one layer still leaves [\d,]+ FLOPs per"):
        FLOPS.count(request_of(START, cut(0.05, "flops", "layer")))
