"""Wanda's score per neuron: where it agrees with the change of the FFN's output, and where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptl_plugins.calibration import pad
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.criteria.output_change import OUTPUT_CHANGE
from ptl_plugins.criteria.wanda_structured import WANDA_STRUCTURED
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import tiny_model

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12] * 9]


def importances(registry, model, batches=1):
    family = registry.families.get("llama")
    batch = pad(SEQUENCES, device=torch.device("cpu"))
    statistics = needed_statistics([WANDA_STRUCTURED, OUTPUT_CHANGE])
    scores = profile(model, family, [batch] * batches, statistics, SingleProcess())
    return WANDA_STRUCTURED.importance(scores), OUTPUT_CHANGE.importance(scores)


@torch.no_grad()
def with_columns(change):
    model = tiny_model("llama")
    for layer in model.model.layers:
        change(layer.mlp.down_proj.weight)
    return model


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_column_that_is_larger_makes_its_neuron_more_important_by_as_much(registry, factor):
    def scale(weight):
        weight[:, 7] *= factor

    plain, scaled = tiny_model("llama"), with_columns(scale)
    one, other = (importances(registry, model)[0][0] for model in (plain, scaled))
    assert other[7] == pytest.approx(factor * one[7], rel=1e-5)
    assert np.delete(other, 7) == pytest.approx(np.delete(one, 7), rel=1e-5)


def test_more_of_the_same_text_changes_nothing(registry):
    once, thrice = (importances(registry, tiny_model("llama"), n)[0] for n in (1, 3))
    np.testing.assert_allclose(once, thrice, rtol=1e-5)


def test_equally_large_weights_are_worth_sqrt_of_the_hidden_size_more(registry):
    """The L1 norm over the L2 norm: 1 for a single weight, sqrt(hidden size) for equal ones."""

    def reshape(weight):
        norms = weight.norm(dim=0)
        weight.zero_()
        weight[3, :24] = norms[:24]
        weight[:, 24:] = norms[24:] / weight.shape[0] ** 0.5

    wanda, change = importances(registry, with_columns(reshape))
    ratio = wanda / change
    np.testing.assert_allclose(ratio[:, :24], 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio[:, 24:], 32**0.5, rtol=1e-5)


def test_of_two_neurons_that_change_the_output_equally_the_narrow_one_goes_first(registry):
    def reshape(weight):
        weight.zero_()
        weight[0, 0] = 1.0
        weight[:, 1] = weight.shape[0] ** -0.5

    wanda, change = importances(registry, with_columns(reshape))
    act = change[:, :2]  # columns of norm 1: the change is the activation's
    np.testing.assert_allclose(wanda[:, 0] / act[:, 0], 1.0, rtol=1e-5)
    assert (wanda[:, 1] / act[:, 1] > 5).all()
