"""GRPO settings as EasyR1's yaml; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verl_ext.easyr1_schema import NEWEST, key_problem
from verl_ext.grpo_settings import EasyR1Model, flatten
from verl_ext.grpo_stage import StageFacts

ACTOR, ROLLOUT, REWARD = (f"worker.{part}" for part in ("actor", "rollout", "reward"))
QUESTION, ANSWER = "problem", "answer"
"""The columns of the round's problems."""

Keys = dict[str, Any]

REMEDIES: Mapping[str, str] = {
    "algorithm.adv_estimator": "the backend is GRPO's",
    "algorithm.disable_kl": "set grpo.kl",
    "algorithm.use_kl_loss": "set grpo.kl",
    "algorithm.kl_coef": "set grpo.kl",
    "data.prompt_key": "set problems.question",
    "data.answer_key": "set problems.answer",
    "data.format_prompt": "set prompt",
    "data.override_chat_template": "set chat_template",
    "data.rollout_batch_size": "set grpo.prompts_per_step",
    "data.max_prompt_length": "set grpo.max_prompt_length",
    "data.max_response_length": "set grpo.max_response_length",
    f"{ACTOR}.global_batch_size": "set grpo.mini_batch",
    f"{ACTOR}.optim.lr": "set grpo.learning_rate",
    f"{ACTOR}.optim.weight_decay": "set grpo.weight_decay",
    f"{ACTOR}.optim.lr_warmup_ratio": "set grpo.warmup_ratio",
    f"{ACTOR}.optim.lr_warmup_steps": "set grpo.warmup_ratio",
    f"{ROLLOUT}.n": "set grpo.samples_per_prompt",
    f"{ROLLOUT}.temperature": "set grpo.temperature",
    f"{ROLLOUT}.top_p": "set grpo.top_p",
    f"{ROLLOUT}.tensor_parallel_size": "set tensor_parallel",
    f"{REWARD}.reward_function": "set reward.file and reward.function",
    "trainer.total_epochs": "set grpo.epochs",
    "trainer.max_steps": "set grpo.steps",
    "trainer.n_gpus_per_node": "set launch.processes",
    "trainer.nnodes": "set nodes",
    "trainer.save_checkpoint_path": "every stage saves in a folder of its own",
    "trainer.load_checkpoint_path": "a stage begins with the pruned model, never with an older "
    "shape",
    "trainer.find_last_checkpoint": "a stage begins with the pruned model, never with an older "
    "shape",
}
"""Where what PTL sets is set, or why it cannot be."""
OURS = {
    "data.train_files", "data.val_files", "data.seed", "data.filter_overlong_prompts",
    f"{ACTOR}.model.model_path", f"{ROLLOUT}.seed", "trainer.save_freq", "trainer.save_limit",
    "trainer.save_model_only",
}  # fmt: skip
"""What each round decides."""
USELESS: Mapping[str, str] = {
    f"{ACTOR}.model.lora.rank": "trains an adapter, and a round takes the whole model; remove it",
    "trainer.val_only": "trains nothing; remove it",
}
"""Keys after which there is no trained model to take."""
DEFAULTS: Mapping[str, Any] = {
    "algorithm.kl_penalty": "low_var_kl",
    f"{ACTOR}.model.trust_remote_code": False,
    # EasyR1 counts one answer a problem where this is missing, while its engine gives `rollout.n`
    f"{ROLLOUT}.val_override_config.n": 1,
    "trainer.logger": ["console"],
    "trainer.project_name": "ptl",
    "trainer.experiment_name": "grpo",
    "trainer.val_before_train": False,
    "trainer.val_freq": -1,
}
"""What a recipe may change: where EasyR1's own default is no use here."""


def easyr1_config(settings: EasyR1Model, facts: StageFacts) -> dict[str, Any]:
    """Return the mapping that EasyR1 reads as its yaml.

    Args:
        settings: the stage's; what `config_problems` finds nothing wrong with.
        facts: its files and machines.
    """
    given = dict(flatten(settings.config))
    return _nested({**DEFAULTS, **stage_keys(settings, facts), **given})


def config_problems(settings: EasyR1Model, version: str = NEWEST) -> Iterator[str]:
    """Yield a line for each key of `config` that PTL sets, or that EasyR1 would refuse.

    Args:
        settings: the stage's.
        version: of EasyR1.
    """
    for key, value in flatten(settings.config):
        if problem := _refusal(key, value, settings) or key_problem(key, value, version):
            yield f"settings.config.{key}: {problem}"


def stage_keys(settings: EasyR1Model, facts: StageFacts) -> Keys:
    """Return the dotted keys that the settings and the stage decide."""
    return {
        **_data(settings, facts),
        **_algorithm(settings),
        **_actor(settings, facts),
        **_rollout(settings, facts),
        **_reward(settings, facts),
        **_trainer(settings, facts),
    }


def _refusal(key: str, value: Any, settings: EasyR1Model) -> str | None:
    if key in REMEDIES:
        return f"is set by PTL; {REMEDIES[key]}"
    if key in OURS:
        return "is set by PTL for each round; remove it"
    if key in USELESS and value:
        return USELESS[key]
    if key.startswith(f"{REWARD}.reward_function_kwargs") and settings.reward.file is None:
        return "is set by PTL; set reward.accuracy_weight, format_weight, time_limit"
    return None


def _data(settings: EasyR1Model, facts: StageFacts) -> Keys:
    grpo = settings.grpo
    return {
        "data.train_files": f"{facts.train}@train",
        "data.val_files": f"{facts.validation}@train",
        "data.prompt_key": QUESTION,
        "data.answer_key": ANSWER,
        "data.format_prompt": str(facts.prompt),
        "data.override_chat_template": str(facts.chat_template) if facts.chat_template else None,
        "data.rollout_batch_size": grpo.prompts_per_step,
        "data.max_prompt_length": grpo.max_prompt_length,
        "data.max_response_length": grpo.max_response_length,
        "data.filter_overlong_prompts": True,
        "data.seed": facts.seed,
    }


def _algorithm(settings: EasyR1Model) -> Keys:
    kl = settings.grpo.kl
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.disable_kl": kl == 0,
        "algorithm.use_kl_loss": kl > 0,
        "algorithm.kl_coef": kl,
    }


def _actor(settings: EasyR1Model, facts: StageFacts) -> Keys:
    grpo = settings.grpo
    return {
        f"{ACTOR}.global_batch_size": grpo.mini_batch,
        f"{ACTOR}.model.model_path": str(facts.model),
        f"{ACTOR}.optim.lr": grpo.learning_rate,
        f"{ACTOR}.optim.weight_decay": grpo.weight_decay,
        f"{ACTOR}.optim.lr_warmup_ratio": grpo.warmup_ratio,
    }


def _rollout(settings: EasyR1Model, facts: StageFacts) -> Keys:
    grpo = settings.grpo
    return {
        f"{ROLLOUT}.n": grpo.samples_per_prompt,
        f"{ROLLOUT}.temperature": grpo.temperature,
        f"{ROLLOUT}.top_p": grpo.top_p,
        f"{ROLLOUT}.seed": facts.seed,
        f"{ROLLOUT}.tensor_parallel_size": settings.tensor_parallel,
    }


def _reward(settings: EasyR1Model, facts: StageFacts) -> Keys:
    keys: Keys = {f"{REWARD}.reward_function": f"{facts.reward_file}:{facts.reward_function}"}
    for name, value in settings.reward.arguments().items():
        keys[f"{REWARD}.reward_function_kwargs.{name}"] = value
    return keys


def _trainer(settings: EasyR1Model, facts: StageFacts) -> Keys:
    return {
        "trainer.total_epochs": settings.grpo.epochs,
        "trainer.max_steps": settings.grpo.steps,
        "trainer.nnodes": settings.nodes,
        "trainer.n_gpus_per_node": facts.processes,
        "trainer.save_checkpoint_path": str(facts.saved),
        "trainer.save_freq": -1,  # it saves once more at the end, whatever this is
        "trainer.save_limit": 1,
        "trainer.save_model_only": True,
        "trainer.load_checkpoint_path": None,
        "trainer.find_last_checkpoint": False,
    }


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as the groups of a yaml."""
    whole: dict[str, Any] = {}
    for key, value in keys.items():
        *groups, name = key.split(".")
        place = whole
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return whole
