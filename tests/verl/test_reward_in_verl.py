"""The reward as verl's own loader and reward loop use it, in an interpreter of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import verl_ext

FILE = Path(verl_ext.__file__).parent / "reward.py"
ENDLESS = "9^{9^{9^9}}"
IN_VERL = r"""
import asyncio, json, sys
import numpy, torch
from omegaconf import OmegaConf
from ptl_plugins.testing import tiny_tokenizer
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

file, settings, answers = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
function = {"path": file, "name": "score_answer", "reward_kwargs": settings}
manager = {"source": "register", "name": "naive"}
config = {"reward": {"custom_reward_function": function, "reward_manager": manager}}
tokenizer = tiny_tokenizer()
tokenizer.decode = lambda ids, **_: answers[int(ids[0])]

def one(index):
    told = {"data_source": "math", "reward_model": {"ground_truth": "\\frac12"}, "extra_info": {}}
    column = {key: numpy.array([value], dtype=object) for key, value in told.items()}
    tensors = {"responses": torch.tensor([[index]]), "attention_mask": torch.ones(1, 1).long()}
    return DataProto.from_dict(tensors=tensors, non_tensors=column)

async def judge():
    naive = load_reward_manager(OmegaConf.create(config), tokenizer)
    return await asyncio.gather(*(naive.run_single(one(index)) for index in range(len(answers))))

print(json.dumps(asyncio.run(judge())))
"""


@pytest.mark.skipif(not importlib.util.find_spec("verl"), reason="needs verl")
@pytest.mark.skipif(not importlib.util.find_spec("math_verify"), reason="needs math-verify")
def test_verl_loads_the_file_and_judges_in_its_threads():
    answers = [
        r"<think>a</think> \boxed{0.5}",
        rf"<think>a</think> \boxed{{{ENDLESS}}}",
        r"\boxed{\frac24}",
    ]
    settings = {"accuracy_weight": 0.75, "format_weight": 0.25, "time_limit": 2.0}
    done = subprocess.run(
        [sys.executable, "-c", IN_VERL, FILE, json.dumps(settings), json.dumps(answers)],
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert [result["reward_score"] for result in results] == [1.0, 0.25, 0.75]
    assert results[0]["reward_extra_info"] == {"score": 1.0, "acc": 1.0, "format": 1.0}
