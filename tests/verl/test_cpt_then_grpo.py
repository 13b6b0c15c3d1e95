"""Two rounds of pruning, pre-training in LLaMA-Factory and GRPO in verl, with a kill in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

CPT = {
    "use_cpu": True,
    "bf16": True,
    "cutoff_len": 64,
    "per_device_train_batch_size": 1,
    "learning_rate": 1.0e-3,
    "max_steps": 2,
}
GRPO = {
    "rollout": "hf_cpu",
    "grpo": {
        "samples_per_prompt": 4,
        "prompts_per_step": 4,
        "mini_batch": 4,
        "max_prompt_length": 96,
        "max_response_length": 16,
        "steps": 2,
        "learning_rate": 1.0e-2,
    },
    "reward": {"file": "reward.py", "function": "score"},
    "problems": {"path": "problems.jsonl"},
    "prompt": "prompt.jinja",
    "chat_template": "plain_chat",
    "profile": {"before": True, "after": True, "num_sequences": 3},
}
REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return sum(letter in "aeiou" for letter in solution_str) / 16
"""
"""One that a random model's answers differ in."""
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 64},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
    "keep": {"intermediate": True},
    "recover": [
        {"backend": "llamafactory", "settings": CPT},
        {"backend": "verl", "settings": GRPO},
    ],
}


def start(folder):
    words = [sys.executable, "-m", "ptl_plugins", "run", "r.yaml"]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def wait_for(condition, run, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def left_in(folder):
    """Return the processes of the folder's stages, Ray's daemons among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.environ().get("PYTHONPATH", ""):
                found.append(process)
    return found


def steps(folder, number):
    lines = (folder / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = map(json.loads, lines)
    return [e for e in events if e["event"] == "training_step" and e["round"] == number]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rounds_of_cpt_and_grpo_end_in_a_plain_checkpoint_though_one_was_killed(tmp_path):
    write_tiny_checkpoint(tmp_path / "model", "qwen2")
    write_tiny_corpus(tmp_path / "data")
    problems = [{"problem": f"What is {i} + 1?", "answer": i + 1} for i in range(32)]
    text = "".join(json.dumps(row) + "\n" for row in problems)
    (tmp_path / "problems.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "prompt.jinja").write_text("{{ content }}", encoding="utf-8")
    (tmp_path / "reward.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")

    stage = tmp_path / "out" / "round_01" / "stage_1"
    killed = start(tmp_path)
    wait_for((stage / "steps.jsonl").is_file, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert left_in(tmp_path), "verl outlives the run that started it"
    after_cpt = (tmp_path / "out/round_01/stage_0/model/model.safetensors").stat().st_mtime_ns

    assert start(tmp_path).wait(600) == 0, (tmp_path / "log").read_text()[-3000:]
    kept = (tmp_path / "out/round_01/stage_0/model/model.safetensors").stat().st_mtime_ns
    assert kept == after_cpt, "the stage before the killed one was done again"
    assert left_in(tmp_path) == []

    for number, width in ((1, 40), (2, 32)):
        model = tmp_path / "out" / f"round_0{number}" / "model"
        loaded = AutoModelForCausalLM.from_pretrained(model)
        assert loaded.config.intermediate_size == width
        assert str(loaded.dtype) == "torch.bfloat16"
        AutoTokenizer.from_pretrained(model)
        given = load_file(tmp_path / f"out/round_0{number}/stage_0/model/model.safetensors")
        trained = load_file(model / "model.safetensors")
        assert any(not torch.equal(given[name], trained[name]) for name in given)
        assert [event["step"] for event in steps(tmp_path, number)] == [1, 2]
        assert all(event["reward"] is not None for event in steps(tmp_path, number))
        assert (
            tmp_path / "out" / f"round_0{number}" / "stage_1/profile_after.safetensors"
        ).is_file()
    first = (tmp_path / "out/round_01/stage_1/data/train.jsonl").read_text(encoding="utf-8")
    second = (tmp_path / "out/round_02/stage_1/data/train.jsonl").read_text(encoding="utf-8")
    assert len(first.splitlines()) == len(second.splitlines()) == 16
    assert not set(first.splitlines()) & set(second.splitlines())
