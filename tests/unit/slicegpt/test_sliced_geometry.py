"""Sizes of sliced models: parameters and FLOPs against the real model, targets, the plan."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ptl_plugins.errors import PruneError
from ptl_plugins.families import find_family
from ptl_plugins.flops import question_flops
from ptl_plugins.geometry import geometry
from ptl_plugins.schedule import plan_rounds
from ptl_plugins.types import Cut, PrunePlan, RoundSpec

MODELS = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("qwen2", {}),
    ("gemma2", {}),
    ("mistral", {}),
]


def config_of(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def one_round(selector, amount, unit="hidden", criterion="slicegpt"):
    cut = Cut(unit=unit, criterion=criterion, selector=selector, amount=amount)
    return RoundSpec(index=1, cuts=(cut,))


@pytest.mark.parametrize(("family", "keys"), MODELS)
@pytest.mark.parametrize("hidden", [32, 24, 20])
def test_parameters_are_the_models_own(slice_tiny, registry, family, keys, hidden):
    pair = slice_tiny(family, hidden=hidden, **keys)
    facts = registry.families.get(family)
    planned = geometry(pair.dense.config.to_dict(), facts).sliced(hidden)
    read = geometry(config_of(pair.folder), facts)
    assert read.num_parameters == pair.model.num_parameters()
    assert read == planned


@pytest.mark.parametrize(("family", "keys"), MODELS)
def test_flops_are_those_that_torch_counts(slice_tiny, registry, family, keys):
    pair = slice_tiny(family, **keys)
    sizes = geometry(config_of(pair.folder), registry.families.get(family))
    model, ids = pair.model, (torch.arange(40)[None] * 7 % 250) + 4
    # torch's counter does not know the CPU kernel of scaled_dot_product_attention
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids)
    ours = question_flops(sizes, prompt_tokens=40, generated_tokens=0)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_the_windows_are_those_before(slice_tiny, registry):
    pair = slice_tiny("gemma2")
    facts = registry.families.get("gemma2")
    before, after = (geometry(config_of(f), facts) for f in (pair.request.source, pair.folder))
    assert after.matrices.windows == before.matrices.windows == (8, None, 8, None, 8)


def test_a_sliced_gemma2_still_needs_its_bos(slice_tiny, registry):
    assert find_family(registry, config_of(slice_tiny("gemma2").folder)).needs_bos


@pytest.mark.parametrize(
    ("selector", "amount", "hidden"),
    [("count", 7.0, 25), ("fraction", 0.25, 24), ("fraction", 0.0, 32)],
)
def test_selectors_count_directions(slice_tiny, registry, selector, amount, hidden):
    dense = geometry(config_of(slice_tiny("llama").request.source), registry.families.get("llama"))
    (planned,) = plan_rounds((one_round(selector, amount),), dense, registry)
    assert (planned.geometry.hidden, planned.geometry.sliced_from) == (hidden, 32)


@pytest.mark.parametrize(("selector", "key"), [("parameters", "num_parameters"),
                                               ("flops", "flops_per_token")])  # fmt: skip
def test_a_target_takes_the_largest_size_that_meets_it(slice_tiny, registry, selector, key):
    dense = geometry(config_of(slice_tiny("llama").request.source), registry.families.get("llama"))
    (planned,) = plan_rounds((one_round(selector, 0.8),), dense, registry)
    found = planned.geometry
    wanted = 0.8 * getattr(dense, key)
    assert getattr(found, key) <= wanted < getattr(dense.sliced(found.hidden + 1), key)


def test_a_target_below_one_direction_is_refused(slice_tiny, registry):
    dense = geometry(config_of(slice_tiny("llama").request.source), registry.families.get("llama"))
    with pytest.raises(PruneError, match="cutting directions of the hidden size alone"):
        plan_rounds((one_round("parameters", 0.001),), dense, registry)


def test_multiple_of_holds_for_the_hidden_size(slice_tiny, registry):
    dense = geometry(config_of(slice_tiny("llama").request.source), registry.families.get("llama"))
    with pytest.raises(PruneError, match="or multiple_of 8 rounds it away"):
        plan_rounds((one_round("count", 7.0),), dense, registry, multiple_of=8)
    (planned,) = plan_rounds((one_round("count", 9.0),), dense, registry, multiple_of=8)
    assert planned.geometry.hidden == 24


def plan(**keys):
    facts = {"num_layers": 2, "width": 4, "removed_neurons": (), "removed_layers": (1,)}
    return PrunePlan(**facts, criteria={}, scores_digest="", **keys)


def test_plans_of_other_rounds_keep_their_digests():
    assert plan().digest().startswith("805ee0")
    assert len({plan().digest(), plan(new_hidden=3).digest(), plan(new_hidden=4).digest()}) == 3


def test_a_plan_that_only_rotates_is_not_empty():
    rotates = PrunePlan(num_layers=2, width=4, removed_neurons=(), removed_layers=(),
                        criteria={}, scores_digest="", new_hidden=32)  # fmt: skip
    assert not rotates.is_empty
    assert repr(rotates) == "PrunePlan(width 4 -> 4, layers 2 -> 2, hidden -> 32)"
