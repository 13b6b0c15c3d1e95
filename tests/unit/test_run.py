"""`ptl run` with a backend that trains nothing: rounds, resume, results that are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ptl_plugins import hookimpl
from ptl_plugins.durable import digest_of_files
from ptl_plugins.errors import StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

KEYS = {
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [
        {"unit": "neuron", "amount": 8, "rounds": 2},
        {"unit": "layer", "amount": 1, "rounds": 1},
    ],
    "recover": [{"backend": "fake"}],
}


class Fake:
    """A backend that adds a little to every weight, in fp32 as trainers do, or fails."""

    def __init__(self):
        self.calls = []
        self.fails = {}

    @hookimpl
    def ptl_register(self, registry):
        registry.backends.add("fake", self)

    def check(self, stage):
        return None

    def recover(self, ctx, stage, model, folder):
        index = ctx.spec.index
        self.calls.append((index, len(ctx.corpus.texts(index))))
        out = folder / "trained"
        shutil.copytree(model, out)
        weights = load_file(out / "model.safetensors")
        weights = {name: tensor.float() * 1.01 for name, tensor in weights.items()}
        self.fails.get(index, lambda w: None)(weights)
        save_file(weights, out / "model.safetensors", {"format": "pt"})
        return out


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def start(tmp_path, monkeypatch, fake):
    """Run the recipe with other keys; return the last model."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def run(**keys):
        manager = build_manager(autoload=False)
        manager.register(fake, "fake")
        registry = build_registry(manager)
        base = {"model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"}}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**base, **KEYS, **keys}), encoding="utf-8")
        recipe = read_recipe(tmp_path / "r.yaml", manager.hook, registry)
        return run_recipe(recipe, manager, registry)

    return run


def test_a_whole_run_ends_in_a_plain_checkpoint_of_the_planned_shape(start, fake, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start())
    assert (model.config.intermediate_size, model.config.num_hidden_layers) == (32, 4)
    assert model.dtype == torch.bfloat16, "the backend's fp32 copies are taken as bf16"
    assert fake.calls == [(1, 10), (2, 10), (3, 10)], "each round has a part of its own"
    names = {path.name for path in (tmp_path / "out" / "round_02").iterdir()}
    assert names == {"model", "plan.json", "record.json", "scores.safetensors", "stage_0"}
    source = tmp_path / "model"
    for name in ("tokenizer.json", "LICENSE", "generation_config.json"):
        kept = tmp_path / "out" / "round_03" / "model" / name
        assert kept.read_bytes() == (source / name).read_bytes()
    history = json.loads((kept.parent / "ptl_pruning.json").read_text(encoding="utf-8"))["history"]
    assert [entry["width"] for entry in history] == [[48, 40], [40, 32], [32, 32]]


def test_the_same_command_again_repeats_nothing(start, fake):
    first = digest_of_files(start(), "*.safetensors")
    fake.calls.clear()
    assert digest_of_files(start(), "*.safetensors") == first
    assert fake.calls == []


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_stage_that_failed_is_done_again_and_the_end_is_the_same(start, fake, tmp_path, index):
    whole = digest_of_files(start(), "*.safetensors")
    shutil.rmtree(tmp_path / "out")
    fake.calls.clear()

    def fail(weights):
        raise KeyboardInterrupt

    fake.fails[index] = fail
    with pytest.raises(KeyboardInterrupt):
        start()
    fake.fails.clear()
    assert digest_of_files(start(), "*.safetensors") == whole
    assert [call[0] for call in fake.calls] == sorted([1, 2, 3, index])


def test_without_stages_the_pruned_model_is_the_rounds_model(start, fake):
    model = AutoModelForCausalLM.from_pretrained(start(recover=[]))
    assert model.config.intermediate_size == 32
    assert fake.calls == []


def diverge(weights):
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")


def reshape(weights):
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name][:-1].clone()


def lose(weights):
    del weights["model.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (diverge, "is not finite: the recovery diverged"),
        (reshape, r"changed the shape of .* from \[40, 32\] to \[39, 32\]"),
        (lose, "lacks the tensor 'model.layers.0.mlp.up_proj.weight'"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused(start, fake, tmp_path, fault, message):
    fake.fails[1] = fault
    with pytest.raises(StageError, match=message):
        start()
    assert not (tmp_path / "out" / "round_01" / "model").exists()
    assert not (tmp_path / "out" / "round_01" / "record.json").exists()
