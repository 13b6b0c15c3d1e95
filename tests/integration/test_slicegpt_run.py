"""SliceGPT as a recipe: `ptl run` from the dense checkpoint to the recovered sliced one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.model_config import read_config
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.report.runs import read_runs
from ptl_plugins.run import run_recipe
from ptl_plugins.slicegpt import sliced_checkpoint
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

PROJECT = Path(__file__).parents[2]
SETTINGS = {
    "use_cpu": True,
    "bf16": True,
    "cutoff_len": 64,
    "per_device_train_batch_size": 1,
    "learning_rate": 1.0e-3,
    "max_steps": 2,
    "trust_remote_code": True,
}
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 64},
    "schedule": [{"unit": "hidden", "selector": "fraction", "amount": 0.25}],
    "recover": [{"backend": "fake"}],
    "evaluate": {
        "before_recovery": True,
        "tasks": [
            {"evaluator": "chain_of_thought", "data": "data/held_out.jsonl", "num_problems": 4}
        ],
    },
}
LM_EVAL = """
import sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
lm = HFLM(pretrained=sys.argv[1], trust_remote_code=True, device="cpu", batch_size=2)
texts = [("Question: What is 2 + 3?", " 5"), ("Question:", " What")]
asked = [Instance("loglikelihood", {}, text, i) for i, text in enumerate(texts)]
print("LOGLIKELIHOODS", [round(value, 4) for value, _ in lm.loglikelihood(asked)])
until = ("Question: What is 2 + 3?", {"until": ["X"], "max_gen_toks": 5, "do_sample": False})
print("ANSWER", lm.generate_until([Instance("generate_until", {}, until, 0)]))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the recipe with other keys; return the last model's folder."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def run(**keys):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        registry = build_registry(manager)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**RECIPE, **keys}), encoding="utf-8")
        recipe = read_recipe(tmp_path / "r.yaml", manager.hook, registry)
        return run_recipe(recipe, manager, registry)

    return run


def test_a_run_slices_measures_recovers_and_records(start, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = start()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.hidden_size, model.config.original_hidden_size) == (24, 32)
    assert model.dtype == torch.bfloat16
    record = json.loads((tmp_path / "out" / "round_01" / "record.json").read_text("utf-8"))
    assert record["num_parameters"] == model.num_parameters()
    assert record["hidden"] == 24
    assert record["pruned"]["metrics"]["cot_loss"] > 0
    (entry,) = json.loads((folder / "ptl_pruning.json").read_text("utf-8"))["history"]
    assert (entry["hidden"], entry["criteria"]) == ([32, 24], {"hidden": "slicegpt"})
    assert {"LICENSE", "tokenizer.json", "modeling_ptl_sliced.py"} <= {
        path.name for path in folder.iterdir()
    }
    said = caplog.text
    assert "round 1: sliced in " in said
    assert "whose activations took" in said
    assert "makes the model larger" not in said


def test_a_run_whose_slicing_makes_the_model_larger_says_so(start, caplog):
    caplog.set_level("INFO")
    start(schedule=[{**RECIPE["schedule"][0], "amount": 0}], evaluate={}, recover=[])
    assert "round 1: slicing the hidden size 32 to 32 makes the model larger, " in caplog.text


@pytest.mark.parametrize("phases", [[], [{"unit": "neuron", "amount": 8}]])
def test_the_report_tells_the_flops_of_a_sliced_round(start, tmp_path, registry, phases):
    folder = start(schedule=[*phases, *RECIPE["schedule"], {"unit": "none"}])
    (run,) = read_runs([tmp_path / "out"], registry)
    facts = registry.families.get("llama")
    before, after = (geometry(read_config(str(f)), facts) for f in (tmp_path / "model", folder))
    last = after.flops_per_token / before.flops_per_token
    assert run.flops[0] == 1
    assert run.flops[len(phases) + 1] == run.flops[len(phases) + 2] == last < 1


def test_neurons_go_first_and_the_sliced_model_is_trained_in_rounds_after(start):
    phases = [
        {"unit": "neuron", "amount": 8},
        {"unit": "hidden", "criterion": "random_directions", "selector": "count", "amount": 4},
        {"unit": "none"},
    ]
    config = AutoModelForCausalLM.from_pretrained(start(schedule=phases)).config
    assert (config.hidden_size, config.intermediate_size) == (28, 40)


def test_no_model_is_loaded_to_slice(start, monkeypatch):
    """Only one layer is in memory: a checkpoint of any size can be sliced."""

    def refuse(*args, **kwargs):
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    start(evaluate={}, recover=[])


def test_a_run_that_was_cut_short_slices_the_same_again(start, tmp_path):
    kept = {"keep": {"intermediate": True}}
    first = load_file(start(**kept) / "model.safetensors")
    folder = tmp_path / "out" / "round_01"
    for path in folder.iterdir():
        if path.name not in ("plan.json", "scores.safetensors"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "pruned").mkdir()  # its name was claimed, nothing in it
    again = load_file(start(**kept) / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_fails_leaves_nothing(start, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sliced_checkpoint.ShardFiles, "finish", full)
    with pytest.raises(PruneError, match=r"not written, nothing is left there: .*No space left"):
        start()
    names = {path.name for path in (tmp_path / "out" / "round_01").iterdir()}
    assert names == {"plan.json", "scores.safetensors"}


def ptl(folder, *words, **more):
    """Run `ptl`, whose stages find the modules of remote code in the test's folder."""
    env = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", **more}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_llamafactory_recovers_and_lm_eval_measures_a_sliced_model(tmp_path, family):
    write_tiny_checkpoint(tmp_path / "model", family)
    write_tiny_corpus(tmp_path / "data")
    recipe = {**RECIPE, "recover": [{"backend": "llamafactory", "settings": SETTINGS}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = ptl(tmp_path, "-m", "ptl_plugins", "run", "r.yaml")
    assert out.strip().endswith("out/round_01/model: the last round's model")
    log = (tmp_path / "out" / "round_01" / "stage_0" / "train.log").read_text("utf-8")
    assert "train_loss" in log
    folder = tmp_path / "out" / "round_01" / "model"
    assert json.loads((folder / "config.json").read_text("utf-8"))["hidden_size"] == 24
    measured = ptl(tmp_path, "-c", LM_EVAL, str(folder))
    assert "LOGLIKELIHOODS [-" in measured
    assert "ANSWER ['" in measured


MODES = {
    "gemma2": {"ddp_backend": "gloo"},
    "llama": {"deepspeed": str(PROJECT / "recipes" / "paper" / "zero2.json")},
}


@pytest.mark.slow
@pytest.mark.timeout(420)  # DeepSpeed may build an operator first
@pytest.mark.parametrize("family", MODES)
def test_two_processes_recover_a_sliced_model_under_ddp_and_zero_2(tmp_path, family):
    write_tiny_checkpoint(tmp_path / "model", family)
    write_tiny_corpus(tmp_path / "data")
    settings = {**SETTINGS, **MODES[family]}
    stage = {"backend": "llamafactory", "settings": settings, "launch": {"processes": 2}}
    recipe = {**RECIPE, "recover": [stage], "evaluate": {}, "keep": {"intermediate": True}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    ptl(tmp_path, "-m", "ptl_plugins", "run", "r.yaml", DS_ACCELERATOR="cpu")
    folder = tmp_path / "out" / "round_01"
    log = (folder / "stage_0" / "train.log").read_text("utf-8")
    assert "world size: 2" in log
    assert "(w. parallel, distributed & accumulation) = 2" in log
    cut, trained = (load_file(folder / name / "model.safetensors") for name in ("pruned", "model"))
    name = "model.layers.4.mlp_shortcut.weight"
    assert cut.keys() == trained.keys()
    assert not torch.equal(cut[name], trained[name])
    assert all(tensor.isfinite().all() for tensor in trained.values())
