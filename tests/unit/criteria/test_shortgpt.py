"""ShortGPT: block influence worked out directly, the lowest k layers gone at once, and the map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ptl_plugins.live import load_checkpoint
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.prune_run import PruneRequest, run_prune
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint
from ptl_plugins.types import Cut

WITH_LAYER_TYPES = ("qwen2", "qwen3", "gemma2", "gemma3_text")
MODEL_TYPES = ("llama", *WITH_LAYER_TYPES)
NUMBER, GONE = 6, 2


@pytest.fixture(params=MODEL_TYPES)
def model(request, tmp_path):
    """A checkpoint whose layers differ enough that no two influences are close."""
    folder = write_tiny_checkpoint(tmp_path / request.param, request.param)
    live = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        for layer, factor in zip(live.model.layers, (4.0, 1.5, 3.0, 2.0, 2.5), strict=True):
            for name, parameter in layer.named_parameters():
                if "norm" not in name:
                    parameter.mul_(factor)
                elif "post" in name:
                    parameter.add_(factor)
    live.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    rows = [json.dumps({"text": text}) for text in tiny_texts(NUMBER)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "data.jsonl"


@torch.no_grad()
def block_influences(folder):
    """ShortGPT's formula to the letter: 1 - E[ x_i . x_(i+1) / (|x_i| |x_(i+1)|) ] per layer."""
    live, tokenizer = load_checkpoint(folder)
    ends, cosines = [], []
    # the last hidden state that transformers tells of is normed already
    live.model.norm.register_forward_pre_hook(lambda module, args: ends.append(args[0]))
    for text in tiny_texts(NUMBER):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states = live.model(input_ids=ids, output_hidden_states=True).hidden_states
        rows = torch.stack([*(s[0] for s in states[:-1]), ends[-1][0]]).double()
        products = (rows[:-1] * rows[1:]).sum(dim=-1)
        cosines.append(products / rows[:-1].norm(dim=-1) / rows[1:].norm(dim=-1))
    return 1 - torch.cat(cosines, dim=1).mean(dim=1).numpy()


def shortgpt(folder, data, registry):
    """Profile, then remove the layers of least influence in one go, as the two commands do."""
    out, scores = folder.parent / "pruned", folder.parent / "scores"
    request = ProfileRequest(model=str(folder), data=str(data), out=scores)
    found, _ = run_profile(request, registry, SingleProcess(), lambda *_: None)
    cut = Cut(unit="layer", criterion="block_influence", selector="count", amount=GONE)
    pruned = run_prune(
        PruneRequest(model=str(folder), out=out, scores=scores, cuts=(cut,)), registry
    )
    return registry.criteria.get("block_influence").importance(found), pruned.plan, out


def test_the_layers_of_least_block_influence_go_at_once_and_are_on_record(model, data, registry):
    influence, plan, out = shortgpt(model, data, registry)
    direct = block_influences(model)
    np.testing.assert_allclose(influence, direct, rtol=1e-4, atol=1e-6)  # 1 - cosine cancels
    least = tuple(sorted(direct.argsort()[:GONE].tolist()))
    assert np.diff(np.sort(direct))[GONE - 1] > 1e-4, "the choice is no matter of rounding"
    assert plan.removed_layers == least
    about = json.loads((out / "ptl_pruning.json").read_text(encoding="utf-8"))
    stay = [layer for layer in range(5) if layer not in least]
    assert about["layers"] == stay
    before, after = (AutoConfig.from_pretrained(folder) for folder in (model, out))
    assert after.num_hidden_layers == 5 - GONE
    types = getattr(before, "layer_types", None)
    assert (types is not None) == (before.model_type in WITH_LAYER_TYPES)
    if types is not None:
        assert after.layer_types == [types[layer] for layer in stay]
    weights = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (model, out)]
    for new, old in enumerate(stay):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(weights[1][name.format(new)], weights[0][name.format(old)])
