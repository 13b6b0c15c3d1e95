"""GRPO settings as verl's Hydra overrides; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ptl_plugins.errors import did_you_mean
from verl_ext.grpo_settings import VerlModel, flatten
from verl_ext.grpo_stage import StageFacts
from verl_ext.hydra_overrides import override

ACTOR, ROLLOUT, REF = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "ref"))
MODEL = "actor_rollout_ref.model"
TRAINER = "ptl_sync"
"""The trainer that `verl_ext.in_verl` registers."""
ONLY_AT_THE_END = 10**9
"""verl saves every so many steps, and at the last one if this is positive."""

FP32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}

Keys = dict[str, Any]

REMEDIES: Mapping[str, str] = {
    "algorithm.adv_estimator": "the backend is GRPO's",
    "data.train_batch_size": "set grpo.prompts_per_step",
    "data.max_prompt_length": "set grpo.max_prompt_length",
    "data.max_response_length": "set grpo.max_response_length",
    f"{ACTOR}.ppo_mini_batch_size": "set grpo.mini_batch",
    f"{ACTOR}.optim.lr": "set grpo.learning_rate",
    f"{ACTOR}.optim.weight_decay": "set grpo.weight_decay",
    f"{ACTOR}.optim.lr_warmup_steps_ratio": "set grpo.warmup_ratio",
    f"{ACTOR}.use_kl_loss": "set grpo.kl",
    f"{ACTOR}.kl_loss_coef": "set grpo.kl",
    f"{ROLLOUT}.name": "set rollout",
    f"{ROLLOUT}.n": "set grpo.samples_per_prompt",
    f"{ROLLOUT}.temperature": "set grpo.temperature",
    f"{ROLLOUT}.top_p": "set grpo.top_p",
    f"{ROLLOUT}.tensor_model_parallel_size": "set tensor_parallel",
    f"{MODEL}.custom_chat_template": "set chat_template",
    "trainer.total_epochs": "set grpo.epochs",
    "trainer.total_training_steps": "set grpo.steps",
    "trainer.n_gpus_per_node": "set launch.processes",
    "trainer.nnodes": "set nodes",
    "reward.custom_reward_function.path": "set reward.file",
    "reward.custom_reward_function.name": "set reward.function",
    "trainer.default_local_dir": "every stage saves in a folder of its own",
    "trainer.resume_mode": "a stage begins with the pruned model, never with an older shape",
    "trainer.resume_from_path": "a stage begins with the pruned model, never with an older shape",
}
"""Where what PTL sets is set, or why it cannot be."""


def verl_overrides(settings: VerlModel, facts: StageFacts, chat_template: str | None) -> list[str]:
    """Return the overrides of `python -m verl.trainer.main_ppo`, one per key, in order.

    Args:
        settings: the stage's.
        facts: its files and machines.
        chat_template: the text of the chat template; None: the model has one.
    """
    ours = stage_keys(settings, facts, chat_template)
    if settings.rollout == "hf_cpu":
        ours |= cpu_keys(facts.processes)
    given = dict(flatten(settings.config))
    defaults = {key: value for key, value in DEFAULTS.items() if key not in given}
    return [override(key, value) for key, value in {**defaults, **ours, **given}.items()]


def config_problems(settings: VerlModel) -> Iterator[str]:
    """Yield a line for each key of `config` that PTL sets itself, or that is no value."""
    for key, value in flatten(settings.config):
        bare = key.lstrip("+~")
        if key.startswith("~"):
            yield f"settings.config.{key}: a key cannot be removed; give it a value"
        elif bare in REMEDIES:
            yield f"settings.config.{key}: is set by PTL; {REMEDIES[bare]}"
        elif bare in USELESS or bare.startswith(f"{MODEL}.lora"):
            yield f"settings.config.{key}: {USELESS.get(bare, LORA)}; remove it"
        elif bare in OURS:
            yield f"settings.config.{key}: is set by PTL for each round; remove it"
        elif bare.startswith("ptl."):
            known = ("profile", "steps_file")
            yield f"settings.config.{key}: is PTL's own key{did_you_mean(bare, known)}; remove it"
        else:
            try:
                override(key, value)
            except TypeError as error:
                yield f"settings.config.{key}: {error}"


def stage_keys(settings: VerlModel, facts: StageFacts, chat_template: str | None) -> Keys:
    """Return the keys that the settings and the stage decide."""
    keys = {
        **_data(settings, facts),
        **_model(facts, chat_template),
        **_actor(settings),
        **_rollout(settings),
        **_reward(settings, facts),
        **_trainer(settings, facts),
    }
    if settings.profile.before or settings.profile.after:
        keys["+ptl.profile_file"] = str(facts.profile_file)
    for moment in ("before", "after"):
        if getattr(settings.profile, moment):
            keys[f"+ptl.profile_{moment}"] = str(facts.profiled(moment))
    return keys


def _data(settings: VerlModel, facts: StageFacts) -> Keys:
    grpo = settings.grpo
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        "data.train_files": str(facts.train),
        "data.val_files": str(facts.validation),
        "data.train_batch_size": grpo.prompts_per_step,
        "data.max_prompt_length": grpo.max_prompt_length,
        "data.max_response_length": grpo.max_response_length,
        "data.filter_overlong_prompts": True,
        "data.seed": facts.seed,
    }


def _model(facts: StageFacts, chat_template: str | None) -> Keys:
    keys: Keys = {f"{MODEL}.path": str(facts.model)}
    if chat_template is not None:
        # OmegaConf would look for what a "${" names
        keys[f"{MODEL}.custom_chat_template"] = chat_template.replace("${", r"\${")
    return keys


def _actor(settings: VerlModel) -> Keys:
    grpo = settings.grpo
    keys: Keys = {
        f"{ACTOR}.ppo_mini_batch_size": grpo.mini_batch,
        f"{ACTOR}.optim.lr": grpo.learning_rate,
        f"{ACTOR}.optim.weight_decay": grpo.weight_decay,
        f"{ACTOR}.optim.lr_warmup_steps_ratio": grpo.warmup_ratio,
        f"{ACTOR}.use_kl_loss": grpo.kl > 0,
        f"{ACTOR}.checkpoint.save_contents": ["hf_model"],
    }
    if grpo.kl > 0:
        keys[f"{ACTOR}.kl_loss_coef"] = grpo.kl
    return keys


def _rollout(settings: VerlModel) -> Keys:
    grpo = settings.grpo
    return {
        f"{ROLLOUT}.name": settings.rollout,
        f"{ROLLOUT}.n": grpo.samples_per_prompt,
        f"{ROLLOUT}.temperature": grpo.temperature,
        f"{ROLLOUT}.top_p": grpo.top_p,
        f"{ROLLOUT}.tensor_model_parallel_size": settings.tensor_parallel,
    }


def _reward(settings: VerlModel, facts: StageFacts) -> Keys:
    keys: Keys = {
        "reward.custom_reward_function.path": str(facts.reward_file),
        "reward.custom_reward_function.name": facts.reward_function,
    }
    for name, value in settings.reward.arguments().items():
        keys[f"+reward.custom_reward_function.reward_kwargs.{name}"] = value
    return keys


def _trainer(settings: VerlModel, facts: StageFacts) -> Keys:
    return {
        "trainer.v1.trainer_mode": TRAINER,
        "trainer.n_gpus_per_node": facts.processes,
        "trainer.nnodes": settings.nodes,
        "trainer.total_epochs": settings.grpo.epochs,
        "trainer.total_training_steps": settings.grpo.steps,
        "trainer.default_local_dir": str(facts.saved),
        "trainer.resume_mode": "disable",
        "trainer.save_freq": ONLY_AT_THE_END,
        "+ptl.steps_file": str(facts.steps),
    }


def cpu_keys(processes: int) -> Keys:
    """Return what a run without a GPU needs; "GPUs" are then processes that Ray counts so."""
    return {
        "trainer.device": "cpu",
        f"{ACTOR}.strategy": "fsdp2",
        f"{ACTOR}.use_torch_compile": False,
        f"{ACTOR}.fsdp_config.use_torch_compile": False,
        f"{ACTOR}.fsdp_config.dtype": "float32",
        f"+{ACTOR}.fsdp_config.mixed_precision": FP32,
        f"+{REF}.fsdp_config.mixed_precision": FP32,
        f"{MODEL}.use_remove_padding": False,
        f"+{MODEL}.override_config.attn_implementation": "sdpa",
        f"{ROLLOUT}.free_cache_engine": False,
        "+ray_kwargs.ray_init.num_gpus": processes,
        # fewer than about 32 of Ray's CPUs and verl waits for ever, whatever the machine has
        "ray_kwargs.ray_init.num_cpus": 32,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init.object_store_memory": 200_000_000,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        # a process each, which take longer to start than they save on a few cores
        f"{ROLLOUT}.agent.num_workers": 1,
        "reward.num_workers": 1,
        "data.dataloader_num_workers": 0,
    }


DEFAULTS: Mapping[str, Any] = {
    f"{ACTOR}.strategy": "fsdp2",
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 8,
    f"{REF}.log_prob_micro_batch_size_per_gpu": 8,
    "trainer.logger": ["console"],
    "trainer.project_name": "ptl",
    "trainer.experiment_name": "grpo",
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
}
"""What a recipe may change: of the start, and where verl's own default is no use here."""
LORA = "a stage trains every weight of the pruned model, no adapter"
USELESS: Mapping[str, str] = {
    "trainer.use_v1": "PTL's trainer is one of verl's newer kind",
    "trainer.val_only": "a stage trains",
    "data.train_max_samples": "a round's part is all that a stage is given",
}
"""What would leave the stage without a trained model, and why."""
OURS = {
    "data.train_files", "data.val_files", "data.seed", f"{MODEL}.path", "trainer.save_freq",
    f"{ACTOR}.checkpoint.save_contents", "algorithm.use_kl_in_reward", "trainer.v1.trainer_mode",
    "data.filter_overlong_prompts", "reward.custom_reward_function.reward_kwargs.accuracy_weight",
    "reward.custom_reward_function.reward_kwargs.format_weight",
    "reward.custom_reward_function.reward_kwargs.time_limit",
}  # fmt: skip
"""What each round decides."""
