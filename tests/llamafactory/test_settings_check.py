"""What LLaMA-Factory's own parser is asked about a yaml, and what becomes of its answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from llamafactory_ext import settings_check
from llamafactory_ext.backend import LlamaFactory
from llamafactory_ext.settings_check import check_settings
from ptl_plugins.stage_check import NotCheckedError
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

WRONG = {
    "learning_rat": 1.0e-5,
    "no_such_key": {"a": 1},
    "bf16": "maybe",
    "packing": "false",
    "learning_rate": "fast",
    "max_steps": "10",
    "cutoff_len": 512.5,
    "lr_scheduler_type": "cosin",
    "flash_attn": "x",
    "eval_strategy": False,
}
FINE = {
    # no GPU, package or file of these is needed to tell that they are right
    "bf16": True, "tf32": True, "deepspeed": "no_such.json", "fsdp": "full_shard auto_wrap",
    "fsdp_config": "no_such.json", "flash_attn": "fa2", "enable_liger_kernel": True,
    "use_unsloth": True, "optim": "adamw_bnb_8bit", "infer_backend": "vllm",
    "torch_compile": True, "ddp_backend": "cpu:gloo,cuda:nccl", "report_to": "all",
    # what works although it is not of the annotated type
    "learning_rate": "1e-5", "fp16": None, "plot_loss": 1, "eval_dataset": ["a", "b"],
    "warmup_steps": 2, "lr_scheduler_kwargs": {"num_cycles": 1}, "max_samples": None,
}  # fmt: skip


def check(python=None, **settings):
    stage = StageSpec(backend="llamafactory", settings=settings, python=python)
    return LlamaFactory().check_thoroughly(stage)


@pytest.fixture
def interpreter(tmp_path):
    """Write a program that stands for an interpreter: a line of the shell."""

    def write(line):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture(scope="module")
def told():
    """The lines about WRONG, from one process."""
    return check(**WRONG).splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "learning_rat: is no setting of LLaMA-Factory 0.9.5 (did you mean 'learning_rate'?)",
        "no_such_key: is no setting of LLaMA-Factory 0.9.5",
        "bf16: 'maybe' is not true or false",
        "packing: 'false' is not true or false or null",
        "learning_rate: 'fast' is not a number",
        "max_steps: '10' is not a whole number",
        "cutoff_len: 512.5 is not a whole number",
        "flash_attn: 'x': allowed: auto, disabled, sdpa, fa2, fa3",
        "eval_strategy: False: allowed: no, steps, epoch; quote words that YAML reads as true "
        "or false",
    ],
)
def test_each_wrong_setting_has_a_line_of_its_own(told, line):
    assert f"settings.{line}" in told
    assert len(told) == len(WRONG)


def test_a_choice_that_does_not_exist_is_told_the_closest_one(told):
    (line,) = (line for line in told if line.startswith("settings.lr_scheduler_type: 'cosin': "))
    assert line.endswith("(did you mean 'cosine'?)")


def test_what_a_machine_and_not_the_recipe_decides_is_no_problem(monkeypatch):
    """A process group of others is not waited for either."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    assert check(**FINE) is None


def test_what_the_dataclasses_refuse_together_is_told_by_each():
    found = check(bf16=True, fp16=True, val_size=0.1, eval_dataset="x").splitlines()
    assert [line.partition(": LLaMA-Factory refuses the settings: ")[2] for line in found] == [
        "Cannot specify `val_size` if `eval_dataset` is not None.",
        "At most one of fp16 and bf16 can be True, but not both",
    ]


def test_where_the_framework_is_not_importable_nothing_is_checked_and_it_is_said(interpreter):
    python = interpreter(f'exec {sys.executable} -I -S "$@"')
    with pytest.raises(NotCheckedError, match=r"LLaMA-Factory is not importable in .*/python: "):
        check(python, no_such_key=1)


def test_a_program_that_crashes_is_a_problem_with_its_last_lines(interpreter):
    found = check(interpreter("echo one >&2; echo 'Error: boom' >&2; exit 3"))
    assert found.startswith("settings: LLaMA-Factory's parser could not check them: ")
    assert found.endswith("python ended with 3: one | Error: boom")


def test_a_program_that_hangs_is_killed_and_is_a_problem(interpreter, monkeypatch, tmp_path):
    monkeypatch.setattr(settings_check, "TIMEOUT", 0.5)
    found = check(interpreter(f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    assert "python took more than 0.5 s" in found
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_interpreter_that_cannot_be_started_is_a_problem(tmp_path):
    assert "cannot be started (No such file" in check(str(tmp_path / "none"))


def test_an_interpreter_is_asked_once_about_the_same_settings(interpreter, tmp_path):
    answer = '{"found": true, "problems": []}'
    python = interpreter(f"echo x >> {tmp_path}/calls; cat > /dev/null; echo '{answer}'")
    for keys in ({"a": 1}, {"a": 1}, {"a": 2}):
        assert check_settings(python, keys) is None
    assert (tmp_path / "calls").read_text() == "x\nx\n"


def test_the_program_is_alone_offline_and_without_a_gpu(interpreter, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    check(interpreter(f"cat > /dev/null; env > {tmp_path}/env"))
    seen = (tmp_path / "env").read_text().splitlines()
    assert {"CUDA_VISIBLE_DEVICES=", "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1"} <= set(seen)
    assert not [line for line in seen if line.startswith("WORLD_SIZE")]


def test_the_parser_reads_the_keys_of_each_round_as_well(interpreter, tmp_path):
    check(interpreter(f"cat > {tmp_path}/yaml"), cutoff_len=64)
    keys = yaml.safe_load((tmp_path / "yaml").read_text())
    assert keys.keys() >= {"model_name_or_path", "dataset_dir", "output_dir", "seed", "cutoff_len"}
    assert "ptl" not in keys


def test_ptl_validate_tells_the_wrong_keys_of_a_llamafactory_yaml(tmp_path):
    """Those that may change between two tries, which the stage does not hold, among them."""
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    keys = {
        "model_name_or_path": "model", "stage": "pt", "do_train": True, "finetuning_type": "full",
        "dataset_dir": "data", "dataset": "tiny", "output_dir": "out", "logging_steps": "often",
        "cutof_len": 64, "ptl": {"schedule": [{"unit": "neuron", "amount": 8}]},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    words = [sys.executable, "-m", "ptl_plugins", "validate", "r.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "ptl: r.yaml: cutof_len: is no setting of LLaMA-Factory 0.9.5 (did you mean 'cutoff_len'?)",
        "r.yaml: logging_steps: 'often' is not a number",
    ]
