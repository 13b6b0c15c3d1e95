"""The backend of `ptl run`: its files, its refusals, and a run of the real LLaMA-Factory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import yaml
from transformers import AutoModelForCausalLM

from llamafactory_ext.backend import LlamaFactory, stage_command, stage_keys
from ptl_plugins.stage_types import LaunchSpec, StageSpec
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

SETTINGS = {
    "use_cpu": True,
    "bf16": True,
    "cutoff_len": 64,
    "per_device_train_batch_size": 1,
    "learning_rate": 1.0e-3,
    "max_steps": 2,
}
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 64},
    "schedule": [{"unit": "neuron", "amount": 8}],
    "recover": [{"backend": "llamafactory", "settings": SETTINGS}],
}


def stage(**settings):
    return StageSpec(backend="llamafactory", settings=settings)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"dataset": "x"}, "settings.dataset: is set by PTL for each round; remove it"),
        ({"stage": "sft"}, "settings.stage: 'sft' cannot be used here; only pt"),
        ({"finetuning_type": "lora"}, "settings.finetuning_type: 'lora' cannot be used here"),
        ({"tokenized_path": "cache"}, "settings.tokenized_path: 'cache': a tokenised cache hides"),
        ({"quantization_bit": 4}, "settings.quantization_bit: 4: a quantised model cannot"),
        ({"neat_packing": True}, "settings.neat_packing: True: LLaMA-Factory has it for"),
        ({"push_to_hub": False, "learning_rate": 1e-5}, None),
        (
            {"seed": 1, "stage": "sft"},
            "settings.seed: is set by PTL for each round; remove it\nsettings.stage: 'sft' cannot",
        ),
    ],
)
def test_settings_that_ptl_decides_are_refused(settings, wrong):
    found = LlamaFactory().check(stage(**settings))
    assert found is None if wrong is None else found.startswith(wrong)


def test_the_recipes_settings_go_through_verbatim_and_the_files_are_ptls(tmp_path):
    keys = stage_keys(stage(learning_rate=2e-5, foo="bar"), tmp_path / "m", tmp_path, seed=9)
    assert (keys["learning_rate"], keys["foo"], keys["seed"]) == (2e-5, "bar", 9)
    assert keys["model_name_or_path"] == str(tmp_path / "m")
    assert keys["output_dir"] == str(tmp_path / "trained")


def test_several_processes_are_torchruns(tmp_path):
    launch = LaunchSpec(processes=4)
    spec = StageSpec(backend="llamafactory", settings={}, launch=launch, python="/env/python")
    command = stage_command(spec, tmp_path)
    assert command.words[0] == "/env/python"
    assert command.environment["NPROC_PER_NODE"] == "4"
    # LLaMA-Factory starts torchrun by its name: that of the interpreter, in whatever shell
    assert command.environment["PATH"].split(":")[0] == "/env"
    elsewhere = dataclasses.replace(spec, launch=LaunchSpec(launcher="slurm", processes=4))
    assert "PATH" not in stage_command(elsewhere, tmp_path).environment


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ptl_run_prunes_and_recovers_with_the_real_framework(tmp_path):
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    words = [sys.executable, "-m", "ptl_plugins", "run", "r.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "out" / "round_01"
    assert done.stdout.strip().endswith("out/round_01/model: the last round's model")
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.intermediate_size == 40
    assert json.loads((folder / "record.json").read_text(encoding="utf-8"))["width"] == 40
    assert "train_loss" in (folder / "stage_0" / "train.log").read_text(encoding="utf-8")


def run_with(tmp_path, **settings):
    """Run the recipe with other settings; return the finished process."""
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    recipe = {**RECIPE, "recover": [{"backend": "llamafactory", "settings": SETTINGS | settings}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = [sys.executable, "-m", "ptl_plugins", "run", "r.yaml"]
    return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_training_that_fails_ends_with_its_log(tmp_path):
    """Whether the DeepSpeed config is there only the training can tell: the check lets it pass."""
    done = run_with(tmp_path, deepspeed="no_such_zero2.json")
    assert done.returncode == 2
    assert "the stage's program ('llamafactory') ended with 1" in done.stderr
    assert "deepspeed" in done.stderr.split("whose last lines are:")[1].lower()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_setting_that_the_frameworks_parser_does_not_know_ends_before_anything_is_written(
    tmp_path,
):
    done = run_with(tmp_path, no_such_key=1)
    assert done.returncode == 2
    assert done.stderr.startswith("ptl: r.yaml: recover.0.settings.no_such_key: is no setting of")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
