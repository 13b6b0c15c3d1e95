"""The correlation of rollout and actor tells a rollout whose weights are not synced.

That it is above 0.99 when they are is asserted where the model learns (`test_learning.py`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verl_ext.grpo_settings import ProblemsModel, VerlModel, template_path
from verl_ext.grpo_stage import REWARD, StageFacts
from verl_ext.problems import round_problems, verl_rows
from verl_ext.ray_cluster import ray_environment
from verl_ext.verl_check import inside_environment
from verl_ext.verl_config import verl_overrides

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "rollout": "hf_cpu",
    "grpo": {
        "samples_per_prompt": 16,
        "prompts_per_step": 20,
        "mini_batch": 5,
        "max_prompt_length": 24,
        "max_response_length": 7,
        "learning_rate": 2e-2,
        "steps": 3,
        "kl": 0.0,
    },
    "chat_template": "plain_chat",
    "config": {
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 80,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 160,
    },
}


@pytest.fixture
def facts(tmp_path):
    """A stage with the task of `digits.py`, and its files."""
    spec = importlib.util.spec_from_file_location("digits", Path(__file__).with_name("digits.py"))
    digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(digits)
    digits.write_model(tmp_path / "model")
    digits.write_problems(tmp_path / "problems.jsonl", right=True)
    prompt = tmp_path / "prompt.jinja"
    prompt.write_text("{{ content }}", encoding="utf-8")
    facts = StageFacts(
        model=tmp_path / "model",
        folder=tmp_path / "stage",
        reward_file=REWARD,
        reward_function="score_answer",
        prompt=prompt,
        chat_template=template_path("plain_chat"),
        processes=1,
        seed=1,
    )
    problems = ProblemsModel(path=str(tmp_path / "problems.jsonl"))
    rows = verl_rows(round_problems(problems, round_index=1, weights=(1,), seed=0), prompt)
    facts.train.parent.mkdir(parents=True)
    facts.train.write_text(rows, encoding="utf-8")
    facts.validation.write_text(rows, encoding="utf-8")
    return facts


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_the_sync_the_rollouts_probabilities_are_no_longer_the_actors(facts):
    settings = VerlModel.model_validate({**SETTINGS, "problems": {"path": "x"}})
    chat = facts.chat_template.read_text(encoding="utf-8")
    overrides = verl_overrides(settings, facts, chat)
    stale = [line.replace("rollout.name=hf_cpu", "rollout.name=hf_stale") for line in overrides]
    assert stale != overrides
    environment = {**inside_environment(ROOT, rollout="hf_cpu"), **ray_environment(None)}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    environment["VERL_USE_EXTERNAL_MODULES"] += ",stale_rollout"
    hydra = f"hydra.run.dir={facts.folder / 'hydra'}"
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *stale, hydra],
        cwd=facts.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = facts.steps.read_text(encoding="utf-8").splitlines()
    first, second, last = (json.loads(line)["rollout_correlation"] for line in lines)
    assert first > 0.99  # the same weights still
    assert max(second, last) < 0.9, (first, second, last)
