"""The closed form against least squares, its limits, and what it does to live models."""

from __future__ import annotations

import copy
import functools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.calibration import Batches
from ptl_plugins.errors import PruneError
from ptl_plugins.families import find_family
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import MAX_RIDGE, RIDGE, refit_live, refitted
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import TINY, tiny_model

REMOVED = (1, 4, 5, 9)
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((40, 30, 4, 17))]


def problem(tokens=200, width=12, hidden=5, *, seed=0):
    """Return batches of inputs [tokens, width], fp64, and an output matrix, fp32."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=rng).double()
    batches = [torch.randn(tokens // 2, width, generator=rng).double() @ mixed for _ in range(2)]
    return batches, torch.randn(hidden, width, generator=rng)


def moment_of(inputs):
    return (inputs.T @ inputs).float()


def kept_of(width, removed):
    return [index for index in range(width) if index not in removed]


def error(inputs, weight, new, kept):
    """Return the squared change of the output on the calibration tokens."""
    inputs, weight = inputs.double(), weight.double()
    return float((inputs[:, kept] @ new.double().T - inputs @ weight.T).square().sum())


def test_it_is_least_squares_on_all_inputs():
    batches, weight = problem()
    inputs, kept = torch.cat(batches), kept_of(12, REMOVED)
    moment = sum(moment_of(batch) for batch in batches)
    new = refitted(weight, moment, REMOVED, ridge=1e-9)
    exact = torch.linalg.lstsq(inputs[:, kept], inputs @ weight.double().T).solution.T
    assert new.shape == (5, 8)
    assert new.dtype == torch.float32
    torch.testing.assert_close(new.double(), exact, rtol=1e-3, atol=1e-4)
    assert (exact - weight[:, kept]).abs().max() > 0.1, "the plain cut is elsewhere"


@pytest.mark.parametrize("ridge", [1e-3, RIDGE, 1.0, 100.0])
def test_it_is_the_ridge_regression_that_pulls_towards_the_plain_cut(ridge):
    """(H_kk + lambda I)^-1 (H_k: W^T + lambda W_k^T), in fp64."""
    batches, weight = problem()
    inputs, kept = torch.cat(batches), kept_of(12, REMOVED)
    moment, exact = inputs.T @ inputs, weight.double()
    lam = ridge * moment.diagonal().mean()
    left = moment[kept][:, kept] + lam * torch.eye(8)
    solved = torch.linalg.solve(left, moment[kept] @ exact.T + lam * exact[:, kept].T).T
    new = refitted(weight, moment.float(), REMOVED, ridge=ridge)
    torch.testing.assert_close(new.double(), solved, rtol=1e-4, atol=1e-5)


def test_the_ridge_is_a_share_of_the_mean_diagonal():
    """So the inputs' scale does not matter, nor the number of tokens."""
    batches, weight = problem()
    moment = moment_of(torch.cat(batches))
    new = refitted(weight, moment, REMOVED)
    torch.testing.assert_close(refitted(weight, moment * 2.0**40, REMOVED), new)
    torch.testing.assert_close(refitted(weight, moment * 2.0**-40, REMOVED), new)
    torch.testing.assert_close(refitted(weight, moment, REMOVED, ridge=RIDGE), new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_goes_the_matrix_is_the_same_bit_by_bit(dtype):
    batches, weight = problem()
    weight = weight.to(dtype)
    new = refitted(weight, moment_of(torch.cat(batches)), ())
    assert torch.equal(new, weight.float())


def test_a_growing_ridge_leads_to_the_plain_cut():
    batches, weight = problem()
    moment, plain = moment_of(torch.cat(batches)), weight[:, kept_of(12, REMOVED)]
    ridges = (1e-4, 1e-2, 1.0, 1e2, 1e4)
    ways = [float((refitted(weight, moment, REMOVED, ridge=r) - plain).norm()) for r in ridges]
    assert ways == sorted(ways, reverse=True)
    assert ways[-1] < 1e-3 < 0.1 < ways[0]


def test_neither_the_weight_nor_the_moment_is_changed():
    batches, weight = problem()
    moment = moment_of(torch.cat(batches))
    before = weight.clone(), moment.clone()
    refitted(weight, moment, REMOVED)
    assert torch.equal(weight, before[0])
    assert torch.equal(moment, before[1])


def test_what_a_removed_twin_did_is_handed_over():
    """Of two equal neurons the one that stays takes both columns, and nothing is lost."""
    batches, weight = problem()
    inputs = torch.cat(batches)
    inputs[:, 3] = inputs[:, 8]
    new = refitted(weight, moment_of(inputs), (3,), ridge=1e-6)
    kept = kept_of(12, (3,))
    expected = weight[:, kept].clone()
    expected[:, kept.index(8)] += weight[:, 3]
    torch.testing.assert_close(new, expected, rtol=1e-3, atol=1e-3)


def test_twins_that_both_stay_share_what_a_third_did():
    batches, weight = problem()
    inputs = torch.cat(batches)
    inputs[:, 2] = inputs[:, 3] = inputs[:, 8]
    new = refitted(weight, moment_of(inputs), (3,), ridge=1e-5)
    kept = kept_of(12, (3,))
    change = new - weight[:, kept]
    torch.testing.assert_close(
        change[:, kept.index(2)], change[:, kept.index(8)], atol=1e-2, rtol=0
    )
    torch.testing.assert_close(change[:, kept.index(2)], weight[:, 3] / 2, atol=1e-2, rtol=0)


def test_without_activity_it_is_the_plain_cut_and_nothing_is_said(caplog):
    _, weight = problem()
    new = refitted(weight, torch.zeros(12, 12), REMOVED)
    assert torch.equal(new, weight[:, kept_of(12, REMOVED)])
    assert not caplog.records


def test_a_silent_neuron_does_not_stand_in_the_way(caplog):
    batches, weight = problem()
    inputs = torch.cat(batches)
    inputs[:, [0, 1]] = 0  # one of them goes, one stays
    new = refitted(weight, moment_of(inputs), REMOVED)
    assert torch.equal(new[:, 0], weight[:, 0])
    assert not caplog.records


def test_fewer_tokens_than_neurons_are_enough_by_default(caplog):
    batches, weight = problem(tokens=6)
    inputs, kept = torch.cat(batches), kept_of(12, REMOVED)
    new = refitted(weight, moment_of(inputs), REMOVED)
    plain = error(inputs, weight, weight[:, kept], kept)
    assert error(inputs, weight, new, kept) < 0.1 * plain
    assert not caplog.records


def deficient(kind):
    """Return inputs whose moment has no full rank, each in another way."""
    batches, weight = problem(tokens=6 if kind == "few tokens" else 200)
    inputs = torch.cat(batches)
    if kind == "twins":
        inputs[:, [2, 3]] = inputs[:, [8, 8]]
    return inputs, weight


@pytest.mark.parametrize("kind", ["few tokens", "twins"])
def test_where_the_ridge_is_too_small_it_grows_and_the_log_says_so(caplog, kind):
    inputs, weight = deficient(kind)
    kept = kept_of(12, REMOVED)
    with caplog.at_level(logging.WARNING):
        new = refitted(weight, moment_of(inputs), REMOVED, name="layer 3", ridge=1e-30)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == (
        "layer 3: second moments are ill-conditioned at lambda 1e-30 of their mean; trying 1e-29"
    )
    assert all("\n" not in line for line in told)
    assert len(set(told)) == len(told) > 1
    assert bool(new.isfinite().all())
    plain = error(inputs, weight, weight[:, kept], kept)
    assert error(inputs, weight, new, kept) < plain


def test_a_matrix_that_is_no_second_moment_gets_a_ridge_that_makes_it_one(caplog):
    batches, weight = problem()
    moment = moment_of(torch.cat(batches))
    moment.fill_diagonal_(float(moment.diagonal().mean()) / 100)
    assert bool(refitted(weight, moment, REMOVED).isfinite().all())
    assert 1 <= len(caplog.records) <= 7


def test_where_no_ridge_helps_it_is_an_error(caplog):
    _, weight = problem()
    moment = torch.full((12, 12), -1e9)
    moment.fill_diagonal_(1e-3)
    with pytest.raises(PruneError, match="layer 3: no ridge up to 1e"):
        refitted(weight, moment, REMOVED, name="layer 3")
    assert "trying 1e+05" not in caplog.text
    _, weight = problem()
    with pytest.raises(PruneError):
        refitted(weight, moment, REMOVED, ridge=10 * MAX_RIDGE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 2), (0, 1), (1, 1), (1, 4)])
def test_a_moment_that_is_not_finite_is_an_error(place, value):
    """Whether the neuron stays or goes: (0, 2) are kept, (1, 4) removed."""
    batches, weight = problem()
    moment = moment_of(torch.cat(batches))
    moment[place] = moment[place[::-1]] = value
    with pytest.raises(PruneError, match="layer 3: its second moments are not finite"):
        refitted(weight, moment, REMOVED, name="layer 3")


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**16),
    tokens=st.integers(1, 20),
    scales=st.lists(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 1.0, 30.0]), min_size=2, max_size=9),
    data=st.data(),
)
def test_it_never_does_worse_than_the_plain_cut(seed, tokens, scales, data):
    width = len(scales)
    rng = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(tokens, width, generator=rng) * torch.tensor(scales)).double()
    weight = torch.randn(3, width, generator=rng)
    removed = data.draw(st.sets(st.integers(0, width - 1), max_size=width - 1))
    kept = kept_of(width, removed)
    new = refitted(weight, moment_of(inputs), sorted(removed))
    plain = error(inputs, weight, weight[:, kept], kept)
    noise = float((1e-5 * inputs @ weight.double().T).square().sum())
    assert error(inputs, weight, new, kept) <= plain * (1 + 1e-3) + noise + 1e-12


@functools.cache
def tiny(name):
    return tiny_model(name)


@pytest.fixture
def gathered(registry, tmp_path):
    """A copy of a tiny model with its family and its second moments."""

    def gather(name="llama", *, sequences=SEQUENCES, **keys):
        model = tiny_model(name, **keys) if keys else copy.deepcopy(tiny(name))
        family = find_family(registry, model.config.to_dict())
        folder = MomentFolder(path=tmp_path / "moments")
        batches = Batches(sequences, batch_tokens=64, device=torch.device("cpu"))
        profile(model, family, batches, (), SingleProcess(), moments=folder)
        return model, family, folder

    return gather


def outputs(model, family):
    return [ffn_output(layer, family).weight.detach() for layer in decoder_layers(model, family)]


@pytest.mark.parametrize("name", TINY)
def test_a_live_model_gets_the_columns_and_loses_less(gathered, make_plan, name):
    model, family, folder = gathered(name)
    rows = [range(layer, 48, 3) for layer in (0, 1, 2, 1, 0)]
    plan = make_plan(model, family, neurons=rows)
    before = [weight.clone() for weight in outputs(model, family)]
    refit_live(model, family, plan, folder, SingleProcess())
    prune_live(model, family, plan)
    for layer, (old, new) in enumerate(zip(before, outputs(model, family), strict=True)):
        moment = folder.read(layer, 48)
        assert torch.equal(new, refitted(old, moment, rows[layer]))
        lost = -old.double()  # the squared change of the output is tr(D H D^T)
        kept = kept_of(48, rows[layer])
        plain, refit = lost.clone(), lost.clone()
        plain[:, kept] += old[:, kept].double()
        refit[:, kept] += new.double()
        errors = [float((d @ moment.double() * d).sum()) for d in (plain, refit)]
        assert errors[1] < 0.9 * errors[0]


def test_layers_that_go_are_left_alone_and_need_no_moment(gathered, make_plan):
    model, family, folder = gathered()
    before = [weight.clone() for weight in outputs(model, family)]
    for layer in (1, 3):
        folder.file(layer).unlink()
    plan = make_plan(model, family, neurons=(0, 5), layers=(1, 3))
    refit_live(model, family, plan, folder, SingleProcess())
    for layer, (old, new) in enumerate(zip(before, outputs(model, family), strict=True)):
        assert torch.equal(old, new) is (layer in (1, 3))
        assert torch.equal(old[:, [0, 5]], new[:, [0, 5]]), "columns that go are not written"


def test_bf16_weights_stay_bf16_and_are_rounded_once(gathered, make_plan):
    model, family, folder = gathered("llama", dtype=torch.bfloat16)
    before = [weight.clone() for weight in outputs(model, family)]
    parameters = [layer.mlp.down_proj.weight for layer in decoder_layers(model, family)]
    refit_live(model, family, make_plan(model, family, neurons=(0, 5, 7)), folder, SingleProcess())
    kept = kept_of(48, (0, 5, 7))
    for layer, parameter in enumerate(parameters):
        assert parameter is model.model.layers[layer].mlp.down_proj.weight
        assert (parameter.dtype, parameter.requires_grad) == (torch.bfloat16, True)
        new = refitted(before[layer], folder.read(layer, 48), (0, 5, 7))
        assert torch.equal(parameter[:, kept], new.bfloat16())
        assert not torch.equal(parameter[:, kept], before[layer][:, kept])


def test_the_log_names_the_layer(gathered, make_plan, monkeypatch, caplog):
    model, family, folder = gathered(sequences=SEQUENCES[2:])  # 21 tokens for 47 neurons
    monkeypatch.setattr("ptl_plugins.refit.refitted", functools.partial(refitted, ridge=1e-30))
    refit_live(model, family, make_plan(model, family, neurons=(0,)), folder, SingleProcess())
    assert "layer 4, mlp.down_proj: second moments are ill-conditioned" in caplog.text


def test_a_missing_moment_is_an_error(gathered, make_plan):
    model, family, folder = gathered()
    folder.file(4).unlink()
    plan = make_plan(model, family, neurons=(0,))
    with pytest.raises(PruneError, match=r"layer_004\.safetensors"):
        refit_live(model, LLAMA, plan, folder, SingleProcess())
