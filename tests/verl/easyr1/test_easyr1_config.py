"""GRPO settings as EasyR1's yaml, held against golden files and the snapshot of its keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from verl_ext.easyr1_config import OURS, REMEDIES, config_problems, easyr1_config, stage_keys
from verl_ext.easyr1_schema import NEWEST, key_problem
from verl_ext.grpo_settings import EasyR1Model, flatten
from verl_ext.grpo_stage import StageFacts

GOLDEN = Path(__file__).with_name("golden")
RECIPE = Path(__file__).parents[3] / "recipes/paper/qwen2_5_7b/ptl_grpo_easyr1.yaml"
PROBLEMS = {"path": "math12k"}
STAGE = Path("/run/round_01/stage_0")


def facts(chat_template=None, **keys):
    return StageFacts(
        **{
            "model": Path("/run/round_01/pruned"),
            "folder": STAGE,
            "reward_file": STAGE / "reward.py",
            "reward_function": "score_answers",
            "prompt": Path("/templates/think_boxed.jinja"),
            "chat_template": chat_template,
            "processes": 8,
            "seed": 43,
            **keys,
        }
    )


def settings(**keys):
    return EasyR1Model.model_validate({"home": "EasyR1", "problems": PROBLEMS, **keys})


def paper():
    (stage,) = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["recover"]
    return EasyR1Model.model_validate(stage["settings"])


def short():
    grpo = {"kl": 0, "steps": 2, "prompts_per_step": 4, "mini_batch": 4}
    return settings(grpo=grpo, nodes=2, ray_address="10.0.0.1:6379")


def own():
    config = {
        "worker": {"rollout": {"gpu_memory_utilization": 0.5}},
        "worker.actor.optim.lr_scheduler_type": "cosine",
        "worker.rollout.val_override_config": {"temperature": 0.6},
        "worker.reward.reward_function_kwargs.strict": True,
        "trainer.logger": ["console", "wandb"],
        "trainer.val_freq": 5,
    }
    return settings(reward={"file": "/my/r.py", "function": "f"}, tensor_parallel=2, config=config)


CASES = {
    "paper": (paper, facts()),
    "short": (short, facts(chat_template=Path("/templates/plain_chat.jinja"))),
    "own": (own, facts(reward_file=Path("/my/r.py"), reward_function="f")),
}


@pytest.fixture(params=CASES)
def case(request):
    """A name, its settings, its facts."""
    build, its_facts = CASES[request.param]
    return request.param, build(), its_facts


def test_the_yaml_is_the_one_that_was_read_and_run(case):
    name, its_settings, its_facts = case
    text = yaml.safe_dump(easyr1_config(its_settings, its_facts), sort_keys=False)
    assert text == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


def test_every_key_and_its_type_are_easyr1s(case):
    _, its_settings, its_facts = case
    keys = dict(flatten(easyr1_config(its_settings, its_facts)))
    wrong = {key: key_problem(key, value, NEWEST) for key, value in keys.items()}
    assert {key: problem for key, problem in wrong.items() if problem} == {}
    assert list(config_problems(its_settings)) == []


def test_a_key_of_the_recipe_wins_over_a_default_and_leaves_its_neighbours():
    rollout = easyr1_config(own(), facts())["worker"]["rollout"]
    assert rollout["val_override_config"] == {"n": 1, "temperature": 0.6}
    assert (rollout["n"], rollout["gpu_memory_utilization"]) == (8, 0.5)


def test_every_key_of_the_translation_is_refused_in_config():
    ours = stage_keys(settings(), facts(chat_template=Path("/t.jinja")))
    refused = {key for key in ours if "is set by PTL" in problem_of(key, 1)}
    assert refused == set(ours)
    assert set(ours) | {"worker.actor.optim.lr_warmup_steps"} >= set(REMEDIES) | OURS


def problem_of(key, value, version=NEWEST, **keys):
    (line,) = config_problems(settings(config={key: value}, **keys), version)
    assert line.startswith(f"settings.config.{key}: ")
    return line.removeprefix(f"settings.config.{key}: ")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("data.rollout_batch_size", 4, "is set by PTL; set grpo.prompts_per_step"),
        ("trainer.save_checkpoint_path", "/old", "every stage saves in a folder of its own"),
        ("trainer.load_checkpoint_path", "/old", "never with an older shape"),
        ("trainer.find_last_checkpoint", True, "never with an older shape"),
        ("data.train_files", "x@train", "is set by PTL for each round; remove it"),
        (
            "worker.reward.reward_function_kwargs.x",
            1,
            "is set by PTL; set reward.accuracy_weight, format_weight, time_limit",
        ),
        ("worker.actor.model.lora.rank", 8, "trains an adapter, and a round takes the whole"),
        ("trainer.val_only", True, "trains nothing; remove it"),
        (
            "worker.actor.max_grad_nrm",
            1.0,
            "is no key of EasyR1 0.3.3.dev0 (did you mean 'worker.actor.max_grad_norm'?)",
        ),
        ("gpu_memory_utilization", 0.6, "(did you mean 'worker.rollout.gpu_memory_utilization'?)"),
        ("xyzzy", 1, "is no key of EasyR1 0.3.3.dev0"),
        ("worker.actor", "fsdp", "is a group of keys; give one of them"),
        ("worker.actor.kl_coef", 0.1, "is worked out by EasyR1; remove it"),
        ("worker.actor.padding_free", "no", "'no' is not true or false"),
        ("worker.actor.ppo_epochs", 1.5, "1.5 is not a whole number"),
        ("worker.actor.ppo_epochs", True, "True is not a whole number"),
        ("worker.actor.max_grad_norm", "big", "'big' is not a number"),
        ("worker.rollout.dtype", 16, "16 is not text"),
        ("data.min_pixels", "few", "'few' is not a whole number or null"),
        ("worker.actor.optim.betas", [0.9], "[0.9] is not a list of two numbers"),
        ("trainer.logger", "console", "'console' is not a list of texts"),
        ("worker.actor.model.override_config", 1, "1 is not a mapping"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_in_one_line(key, value, problem):
    assert problem in problem_of(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker.actor.max_grad_norm", "1e-1"),
        ("worker.actor.max_grad_norm", 1),
        ("worker.actor.optim.betas", [0.9, 0.95]),
        ("worker.actor.model.override_config.attn.any", {"deep": 1}),
        ("worker.actor.model.lora.rank", 0),
        ("data.min_pixels", None),
        ("trainer.logger", ["console", "wandb"]),
    ],
)
def test_a_key_of_the_right_type_passes(key, value):
    assert list(config_problems(settings(config={key: value}))) == []


def test_a_reward_of_ones_own_may_have_arguments_of_its_own():
    reward = {"file": "/r.py", "function": "f"}
    given = {"worker.reward.reward_function_kwargs.x": 1}
    assert list(config_problems(settings(config=given, reward=reward))) == []
    config = easyr1_config(settings(config=given, reward=reward), facts())
    assert config["worker"]["reward"]["reward_function_kwargs"] == {"x": 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker.actor.optim.lr_scheduler_type", "cosine"),
        ("worker.actor.loss_type", "gspo"),
        ("worker.actor.model.lora.alpha", 8),
    ],
)
def test_a_key_newer_than_the_clone_is_refused(key, value):
    assert "is no key of EasyR1 0.3.2" in problem_of(key, value, "0.3.2")


@pytest.mark.parametrize(
    ("key", "value"),
    [("worker.reward.reward_type", "sequential"), ("worker.actor.optim.warmup_style", "cosine")],
)
def test_a_key_older_than_the_clone_is_refused(key, value):
    assert "is no key of EasyR1 0.3.3.dev0" in problem_of(key, value)
    assert list(config_problems(settings(config={key: value}), "0.3.2")) == []
