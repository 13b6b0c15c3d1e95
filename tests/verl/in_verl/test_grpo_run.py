"""The real verl, started as its users start it, with PTL's plugin: two ranks on this CPU.

The embeddings are not tied, as those of most large models: verl then loads the model in one rank.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.testing import write_tiny_checkpoint
from verl_ext.grpo_settings import VerlModel, read_settings, template_path
from verl_ext.grpo_stage import StageFacts
from verl_ext.verl_check import inside_environment, inside_files
from verl_ext.verl_config import verl_overrides

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PEAKED = {"initializer_range": 0.4, "tie_word_embeddings": False}
REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return sum(letter in "aeiou" for letter in solution_str) / 16
"""
SETTINGS = {
    "rollout": "hf_cpu",
    "grpo": {
        "samples_per_prompt": 4,
        "prompts_per_step": 4,
        "mini_batch": 4,
        "max_prompt_length": 24,
        "max_response_length": 12,
        "learning_rate": 0.03,
        "kl": 0.01,
        "steps": 2,
    },
    "problems": {"path": "unused"},
    "profile": {"before": True, "after": True},
    "reward": {"file": "reward.py", "function": "score"},
    "chat_template": "plain_chat",
    "config": {"actor_rollout_ref.rollout.calculate_log_probs": True},
}
TEXTS = ["Ann has 3 apples.", "A train leaves.", [5, 6, 7]]
"""Of three the second rank has one, and goes through another that does not count."""
NUM_PROMPTS = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo") / "model"
    write_tiny_checkpoint(folder, "llama", **PEAKED)
    return folder


def train(folder, checkpoint):
    """Run `python -m verl.trainer.main_ppo` in `folder`; return the lines of its steps."""
    chat = template_path("plain_chat")
    facts = StageFacts(
        model=checkpoint,
        folder=folder,
        reward_file=folder / "reward.py",
        reward_function="score",
        prompt=chat,
        chat_template=chat,
        processes=2,
        seed=1,
    )
    write_inputs(facts)
    settings = read_settings(VerlModel, SETTINGS)
    words = verl_overrides(settings, facts, chat.read_text(encoding="utf-8"))
    environment = inside_environment(folder / "code", rollout="hf_cpu")
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    lines = facts.steps.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def write_inputs(facts):
    files = dict(inside_files(facts.folder / "code"))
    files[facts.reward_file] = REWARD
    rows = [
        {
            "data_source": "vowels",
            "prompt": [{"role": "user", "content": f"Say {index}"}],
            "reward_model": {"style": "rule", "ground_truth": "none"},
        }
        for index in range(NUM_PROMPTS)
    ]
    files[facts.train] = files[facts.validation] = "".join(json.dumps(row) + "\n" for row in rows)
    files[facts.profile_file] = json.dumps(TEXTS)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder, checkpoint)


def test_each_step_is_a_line_of_finite_numbers(run):
    _, steps = run
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert all(isinstance(value, int | float) for value in step.values()), step
        assert 0 <= step["reward_min"] <= step["reward"] <= step["reward_max"]
        assert 1 <= step["response_length"] <= 12


def test_the_last_step_is_saved_once_and_can_be_loaded(run, checkpoint):
    folder, _ = run
    (saved,) = folder.glob("saved/global_step_*/actor/huggingface")
    assert saved.parts[-3] == "global_step_2"
    trained = AutoModelForCausalLM.from_pretrained(saved)
    start = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    for name, tensor in trained.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert not torch.equal(tensor.float(), start[name].float()), name
    AutoTokenizer.from_pretrained(saved)


def test_the_live_actor_is_profiled_by_its_ranks_before_and_after(run):
    folder, _ = run
    before, after = (load_file(folder / f"profile_{m}.safetensors") for m in ("before", "after"))
    assert before.keys() == after.keys()
    assert len(before) == 3 * 5
    for name, value in before.items():
        assert value.shape == (48,)
        assert not torch.equal(value, after[name]), name


def test_the_first_profile_is_that_of_the_whole_model(run, checkpoint):
    folder, _ = run
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    seen = []
    down = model.model.layers[2].mlp.down_proj
    down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for text in TEXTS:
        ids = text if isinstance(text, list) else tokenizer.encode(text)
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
    size = torch.cat(seen).abs()
    found = load_file(folder / "profile_before.safetensors")
    name = "model.layers.2.mlp.down_proj"
    torch.testing.assert_close(found[f"{name}.abs_max"], size.amax(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[f"{name}.abs_mean"], size.mean(0), rtol=1e-3, atol=1e-4)
    with safe_open(folder / "profile_before.safetensors", "pt") as file:
        assert file.metadata() == {"tokens": str(len(size))}


def test_the_rollout_has_the_trained_weights_and_the_reference_the_first_ones(run):
    _, steps = run
    assert min(step["rollout_correlation"] for step in steps) > 0.99, steps
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert steps[1]["kl"] > 0.1
