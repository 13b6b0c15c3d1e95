"""Stages behind the slicing: what LLaMA-Factory needs, and why GRPO cannot follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafactory_ext.backend import LlamaFactory
from llamafactory_ext.recipe import read_llamafactory_recipe
from ptl_plugins.errors import RecipeError
from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.stage_types import ModelChecker, StageModel, StageSpec
from ptl_plugins.testing import tiny_model

GRPO = {
    "verl": [{"rollout": "vllm"}, {"rollout": "sglang"}, {"rollout": "hf_cpu"}],
    "easyr1": [{}],
}


@pytest.fixture(params=["known", "by scores"])
def shapes(registry, request):
    """Return the shapes of a round that cuts neurons and of one that slices, if they are known."""
    if request.param == "by scores":
        return ()
    dense = geometry(tiny_model("llama").config.to_dict(), registry.families.get("llama"))
    return dense.after(width=40, num_layers=dense.num_layers), dense.sliced(24)


def asked(shapes, *, sliced=True):
    config, folder = {"model_type": "llama"}, Path("nowhere")
    return StageModel(config=config, folder=folder, shapes=shapes, sliced=sliced)


def found(shapes, *, sliced=True, **settings):
    """Return what the backend finds, line by line."""
    stage = StageSpec(backend="llamafactory", settings=settings)
    return (LlamaFactory().check_model(stage, asked(shapes, sliced=sliced)) or "").splitlines()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "is missing"),
        ({"trust_remote_code": False}, "False"),
        ({"trust_remote_code": "true"}, "'true'"),
    ],
)
def test_a_sliced_model_is_trained_only_where_its_user_trusts_its_code(shapes, given, told):
    (line,) = found(shapes, **given)
    assert line.startswith(f"settings.trust_remote_code: {told}: a sliced model (unit 'hidden')")
    assert "set trust_remote_code: true" in line


@pytest.mark.parametrize("attention", ["fa2", "fa3"])
def test_flash_attention_is_refused_before_the_slicing_and_not_after(shapes, attention):
    (line,) = found(shapes, trust_remote_code=True, flash_attn=attention)
    assert line.startswith(f"settings.flash_attn: '{attention}': a sliced model (unit 'hidden')")


def test_a_trusted_stage_is_fine_and_one_before_the_slicing_needs_no_trust(shapes):
    assert found(shapes, trust_remote_code=True, flash_attn="sdpa") == []
    assert found(shapes[:1], sliced=False, flash_attn="fa2") == []


@pytest.mark.parametrize(
    ("name", "settings"), [(name, each) for name, all_ in GRPO.items() for each in all_]
)
def test_grpo_on_a_sliced_model_is_refused_by_both_backends(shapes, name, settings, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n", encoding="utf-8")
    keys = {"problems": {"path": str(problems)}, "chat_template": "plain_chat", **settings}
    if name == "easyr1":
        keys["home"] = str(tmp_path)
    backend = build_registry(build_manager()).backends.get(name)
    assert isinstance(backend, ModelChecker)
    stage = StageSpec(backend=name, settings=keys)
    (line,) = backend.check_model(stage, asked(shapes)).splitlines()
    assert line.startswith("backend: the rollout cannot load a sliced model: its architecture")
    assert "sliced" not in (backend.check_model(stage, asked(shapes[:1], sliced=False)) or "")


@pytest.mark.parametrize("value", [True, False])
def test_neat_packing_beside_a_ptl_section_is_refused_before_anything_is_cut(registry, value):
    """LLaMA-Factory itself refuses it in stage `pt`, but not before the model was cut."""
    keys = {
        "model_name_or_path": "model", "output_dir": "out", "dataset": "tiny", "stage": "pt",
        "finetuning_type": "full", "do_train": True, "neat_packing": value,
        "ptl": {"schedule": [{"unit": "neuron", "amount": 8}]},
    }  # fmt: skip
    source = RecipeSource(
        path=Path("x.yaml"), keys=keys, text="", registry=registry, thorough=False
    )
    if not value:
        assert read_llamafactory_recipe(source).rounds
        return
    with pytest.raises(RecipeError) as caught:
        read_llamafactory_recipe(source)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("x.yaml: neat_packing: True: LLaMA-Factory has it for supervised")
