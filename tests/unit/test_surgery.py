"""Cuts of a live model: exact weights, composed provenance, refused plans."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.families.qwen2 import QWEN2
from ptl_plugins.live import decoder_layers, width
from ptl_plugins.provenance import Provenance, untouched
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model
from ptl_plugins.types import PrunePlan

QUICK = settings(max_examples=25, deadline=None)
SMALL = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16}


def small_model(depth, neurons, **keys):
    return tiny_model("llama", num_hidden_layers=depth, intermediate_size=neurons, **SMALL, **keys)


@st.composite
def plans(draw, depth, size):
    """A plan of any cut that leaves something: other neurons in every layer, any layers."""
    number = draw(st.integers(0, size - 1))
    rows = [draw(st.permutations(range(size)))[:number] for _ in range(depth)]
    gone = draw(st.sets(st.integers(0, depth - 1), max_size=depth - 1))
    return PrunePlan(
        num_layers=depth,
        width=size,
        removed_neurons=tuple(tuple(sorted(row)) for row in rows) if number else (),
        removed_layers=tuple(sorted(gone)),
        criteria={"neuron": "n"},
        scores_digest="d",
    )


@st.composite
def two_cuts(draw):
    depth, size = draw(st.integers(1, 4)), draw(st.integers(2, 10))
    first = draw(plans(depth, size))
    return first, draw(plans(first.new_num_layers, first.new_width))


def assert_is_what_provenance_says(model, original, provenance: Provenance):
    layers = decoder_layers(model, LLAMA)
    assert len(layers) == len(provenance.layers) == len(provenance.neurons)
    for layer, index, kept in zip(layers, provenance.layers, provenance.neurons, strict=True):
        old, rows = decoder_layers(original, LLAMA)[index], list(kept)
        for name in ("gate_proj", "up_proj"):
            before, after = getattr(old.mlp, name), getattr(layer.mlp, name)
            assert torch.equal(after.weight, before.weight[rows])
            assert torch.equal(after.bias, before.bias[rows])
        assert torch.equal(layer.mlp.down_proj.weight, old.mlp.down_proj.weight[:, rows])
        assert torch.equal(layer.mlp.down_proj.bias, old.mlp.down_proj.bias)
        assert torch.equal(layer.self_attn.q_proj.weight, old.self_attn.q_proj.weight)


@QUICK
@given(two_cuts())
def test_two_cuts_leave_the_original_weights_that_the_provenance_names(cuts):
    depth, size = cuts[0].num_layers, cuts[0].width
    original = small_model(depth, size, mlp_bias=True)
    model, provenance = copy.deepcopy(original), untouched(num_layers=depth, width=size)
    for plan in cuts:
        prune_live(model, LLAMA, plan)
        provenance = provenance.after(plan)
        assert_is_what_provenance_says(model, original, provenance)
    assert [entry["width"] for entry in provenance.history] == [
        [plan.width, plan.new_width] for plan in cuts
    ]
    assert Provenance.from_json(provenance.to_json()) == provenance


@QUICK
@given(two_cuts())
def test_the_shape_after_a_cut_is_the_plans_and_the_model_still_runs(cuts):
    plan = cuts[0]
    model = small_model(plan.num_layers, plan.width)
    prune_live(model, LLAMA, plan)
    assert width(model, LLAMA) == model.config.intermediate_size == plan.new_width
    assert len(decoder_layers(model, LLAMA)) == plan.new_num_layers
    assert model.config.num_hidden_layers == plan.new_num_layers
    with torch.no_grad():
        assert model(torch.tensor([[4, 5, 6]])).logits.isfinite().all()


@pytest.fixture
def model():
    return tiny_model("qwen2")


def test_an_empty_plan_changes_nothing_however_often(model, make_plan):
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = model.config.to_dict()
    for _ in range(2):
        prune_live(model, QWEN2, make_plan(model, QWEN2))
    assert model.config.to_dict() == config
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("change", [{"width": 47}, {"num_layers": 6}])
def test_a_plan_for_another_shape_is_refused_and_nothing_is_cut(model, make_plan, change):
    plan = dataclasses.replace(make_plan(model, QWEN2, neurons=(1, 2)), **change)
    with pytest.raises(PruneError, match=r"the plan is for .* the model has 5 of 48"):
        prune_live(model, QWEN2, plan)
    assert width(model, QWEN2) == 48


@pytest.mark.parametrize(
    "rows",
    [
        [(1,), (1, 2), (1,), (1,), (1,)],
        [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2)],
        [(48,)] * 5,
        [(-1,)] * 5,
        [(2, 1)] * 5,
        [(1,)] * 4,
    ],
)
def test_a_plan_that_is_not_uniform_is_refused_and_nothing_is_cut(model, make_plan, rows):
    with pytest.raises(PruneError, match="the plan"):
        prune_live(model, QWEN2, make_plan(model, QWEN2, neurons=rows))
    assert {layer.mlp.down_proj.in_features for layer in model.model.layers} == {48}


def test_a_plan_does_not_fit_a_second_time(model, make_plan):
    plan = make_plan(model, QWEN2, neurons=(1, 2))
    prune_live(model, QWEN2, plan)
    with pytest.raises(PruneError, match="has 5 of 46"):
        prune_live(model, QWEN2, plan)


def test_cut_weights_are_leaves_in_their_own_memory_and_stay_trainable_or_frozen(model, make_plan):
    frozen = decoder_layers(model, QWEN2)[0].mlp.gate_proj
    frozen.weight.requires_grad_(False)
    prune_live(model, QWEN2, make_plan(model, QWEN2, neurons=(1, 2)))
    assert not frozen.weight.requires_grad
    for parameter in model.parameters():
        assert parameter.is_leaf
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4
    model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    cut = [p for name, p in model.named_parameters() if "mlp" in name and p is not frozen.weight]
    assert all(p.grad is not None for p in cut)


def test_an_optimizer_step_after_the_cut_moves_the_cut_weights(model, make_plan):
    prune_live(model, QWEN2, make_plan(model, QWEN2, neurons=(1, 2), layers=(1,)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if "down_proj" in name:
            assert not torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("gone", "window"), [((0,), 1), ((0, 1), 0), ((3, 4), 2), ((1, 2), 1), ((), 2)]
)
def test_the_window_key_counts_the_kept_layers_below_it(model, make_plan, gone, window):
    assert model.config.max_window_layers == 2
    prune_live(model, QWEN2, make_plan(model, QWEN2, layers=gone))
    assert model.config.max_window_layers == window


def test_a_family_of_other_names_is_cut_by_its_facts_alone(make_plan):
    """Nothing in the surgery knows a module's name: an outside family is five facts."""
    model = small_model(3, 6)
    for layer in model.model.layers:
        layer.ffn = layer.mlp
        del layer.mlp
    other = Family(
        name="other",
        model_types=("other",),
        ffn_inputs=("ffn.gate_proj", "ffn.up_proj"),
        ffn_output="ffn.down_proj",
        per_layer_keys=(),
    )
    prune_live(model, other, make_plan(model, other, neurons=(0,), layers=(1,)))
    assert [layer.ffn.down_proj.in_features for layer in model.model.layers] == [5, 5]
