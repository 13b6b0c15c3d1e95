"""GRPO learns from PTL's reward through the rollout `hf_cpu`, and only from a reward that is right.

Both runs are the real verl; see `digits.py` for the task.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import yaml

from ptl_plugins.testing import write_tiny_corpus

GRPO = {
    "samples_per_prompt": 16,
    "prompts_per_step": 20,
    "mini_batch": 10,
    "max_prompt_length": 24,
    "max_response_length": 7,
    "epochs": 3,
    "learning_rate": 1.5e-3,
    "kl": 0.0,
}
SETTINGS = {
    "rollout": "hf_cpu",
    "problems": {"path": "problems.jsonl"},
    "prompt": "prompt.jinja",
    "chat_template": "plain_chat",
    "config": {
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 160,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 160,
    },
}
STEPS = 16


@pytest.fixture(scope="module")
def digits():
    """The task; a module that is no test."""
    spec = importlib.util.spec_from_file_location("digits", Path(__file__).with_name("digits.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "model"
    digits.write_model(folder)
    return folder


def train(folder, model, num_steps):
    """Run one round of recovery alone; return the events of its steps."""
    write_tiny_corpus(folder / "data", num_documents=4)
    (folder / "prompt.jinja").write_text("{{ content }}", encoding="utf-8")
    recipe = {
        "model": str(model),
        "run_dir": "out",
        "data": {"path": "data/tiny.jsonl"},
        "schedule": [{"unit": "none"}],
        "recover": [
            {"backend": "verl", "settings": {**SETTINGS, "grpo": {**GRPO, "steps": num_steps}}}
        ],
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = [sys.executable, "-m", "ptl_plugins", "run", "r.yaml"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (folder / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [e for e in map(json.loads, lines) if e["event"] == "training_step"]
    assert [step["step"] for step in steps] == list(range(1, num_steps + 1))
    return steps


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_mean_reward_rises_and_the_rollout_has_the_trained_weights(digits, model, tmp_path):
    digits.write_problems(tmp_path / "problems.jsonl", right=True)
    steps = train(tmp_path, model, STEPS)
    rewards = [step["reward"] for step in steps]
    assert mean(rewards[:3]) < 0.3, rewards
    assert mean(rewards[-3:]) > 0.7, rewards
    assert min(step["rollout_correlation"] for step in steps) > 0.99
    assert all(step["clip_fraction"] is not None for step in steps)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_answers_that_do_not_belong_to_their_questions_teach_nothing(digits, model, tmp_path):
    digits.write_problems(tmp_path / "problems.jsonl", right=False)
    rewards = [step["reward"] for step in train(tmp_path, model, STEPS)]
    assert max(rewards) < 0.35, rewards
