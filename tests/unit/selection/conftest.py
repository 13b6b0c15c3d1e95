"""Scores of any shape, the registry they are chosen by, and the plan that comes of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from ptl_plugins.criteria import StatisticCriterion
from ptl_plugins.geometry import Geometry
from ptl_plugins.registry import Registry
from ptl_plugins.selection import choose
from ptl_plugins.selectors import FLOPS, PARAMETERS, Count, Fraction, Threshold
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
