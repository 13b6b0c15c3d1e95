"""GRPO settings as verl's overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_ext.grpo_settings import VerlModel
from verl_ext.grpo_stage import StageFacts
from verl_ext.verl_config import REMEDIES, config_problems, stage_keys, verl_overrides

GOLDEN = Path(__file__).with_name("golden")
FACTS = StageFacts(
    model=Path("/run/round_01/pruned"),
    folder=Path("/run/round_01/stage_0"),
    reward_file=Path("/run/round_01/stage_0/reward.py"),
    reward_function="score_answer",
    prompt=Path("/templates/think_boxed.jinja"),
    chat_template=None,
    processes=8,
    seed=43,
)
PROBLEMS = {"path": "math12k"}


def settings(**keys):
    return VerlModel.model_validate({"problems": PROBLEMS, **keys})


@pytest.mark.parametrize(
    ("name", "keys", "chat"),
    [
        ("paper", {}, None),
        (
            "cpu",
            {
                "rollout": "hf_cpu",
                "grpo": {"kl": 0, "steps": 2, "prompts_per_step": 4, "mini_batch": 4},
                "profile": {"before": True, "after": True},
            },
            "{{ messages }}\n'quoted'",
        ),
        (
            "own",
            {
                "rollout": "sglang",
                "tensor_parallel": 2,
                "reward": {"file": "/r.py", "function": "f"},
                "config": {
                    "actor_rollout_ref": {"rollout": {"gpu_memory_utilization": 0.6}},
                    "+data.new_key": [1, "two"],
                    "trainer.logger": ["console", "wandb"],
                },
            },
            None,
        ),
    ],
)
def test_the_overrides_are_those_that_were_read_and_run(name, keys, chat):
    text = "".join(
        repr(line)[1:-1] + "\n" for line in verl_overrides(settings(**keys), FACTS, chat)
    )
    assert text == (GOLDEN / f"verl_{name}.txt").read_text(encoding="utf-8")


def test_no_key_is_given_twice_and_the_recipes_wins_over_a_default():
    lines = verl_overrides(settings(config={"trainer.test_freq": 5}), FACTS, None)
    keys = [line.split("=")[0].lstrip("+") for line in lines]
    assert len(set(keys)) == len(keys)
    assert "trainer.test_freq=5" in lines


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {"data.train_batch_size": 4},
            "data.train_batch_size: is set by PTL; set grpo.prompts_per",
        ),
        ({"trainer": {"resume_mode": "auto"}}, "never with an older shape"),
        ({"trainer.default_local_dir": "/old"}, "every stage saves in a folder of its own"),
        ({"+data.train_files": "x"}, "is set by PTL for each round; remove it"),
        ({"+ptl.steps_file": "x"}, "is PTL's own key"),
        ({"~trainer.logger": None}, "a key cannot be removed"),
        ({"a.b": {1, 2}}, "cannot be an override"),
        ({"trainer.use_v1": False}, "PTL's trainer is one of verl's newer kind; remove it"),
        ({"trainer": {"val_only": True}}, "a stage trains; remove it"),
        ({"actor_rollout_ref.model.lora_rank": 8}, "a stage trains every weight"),
        ({"actor_rollout_ref.model.lora.rank": 8}, "a stage trains every weight"),
    ],
)
def test_keys_that_ptl_sets_are_refused_with_the_place_to_set_them(config, line):
    (found,) = config_problems(settings(config=config))
    assert found.startswith("settings.config.")
    assert line in found


def test_every_key_of_the_translation_is_refused_in_config():
    ours = {key.lstrip("+") for key in stage_keys(settings(), FACTS, "chat")}
    ours = {key for key in ours if not key.startswith("ptl.")}
    refused = {key for key in ours if list(config_problems(settings(config={key: 1})))}
    assert refused == ours
    assert set(REMEDIES) >= {"trainer.resume_from_path"}
