"""Batches, lengths and GPUs that EasyR1 would refuse after all of its processes have started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from verl_ext.grpo_settings import EasyR1Model, flatten

UPDATE = "worker.actor.micro_batch_size_per_device_for_update"
EXPERIENCE = "worker.actor.micro_batch_size_per_device_for_experience"
TOKENS = "worker.rollout.max_num_batched_tokens"
MINI = "data.mini_rollout_batch_size"
ULYSSES = "worker.actor.ulysses_size"
DYNAMIC = "worker.actor.dynamic_batching"
DEFAULTS = {UPDATE: 4, EXPERIENCE: 16, TOKENS: 8192, ULYSSES: 1, DYNAMIC: True}
"""EasyR1's own."""


def size_problems(settings: EasyR1Model, processes: int) -> Iterator[str]:
    """Yield a line per size that does not fit.

    Args:
        settings: the stage's; what in `config` is no size is passed over.
        processes: GPUs of each machine.
    """
    given = {key: v for key, v in flatten(settings.config) if isinstance(v, int)}
    config: dict[str, int] = {
        **DEFAULTS,
        **{key: v for key, v in given.items() if v > 0 or key == DYNAMIC},
    }
    num_gpus = processes * settings.nodes
    yield from _gpu_problems(settings, num_gpus, config)
    yield from _batch_problems(settings, num_gpus, config)
    grpo = settings.grpo
    if (longest := grpo.max_prompt_length + grpo.max_response_length) > config[TOKENS]:
        yield (
            f"settings.config.{TOKENS}: {config[TOKENS]} is less than the {longest} tokens of "
            "grpo.max_prompt_length + max_response_length; give more"
        )


def _gpu_problems(settings: EasyR1Model, num_gpus: int, config: Mapping[str, int]) -> Iterator[str]:
    gpus = f"the stage's {num_gpus} GPUs (launch.processes x nodes)"
    if num_gpus % settings.tensor_parallel:
        yield f"settings.tensor_parallel: {settings.tensor_parallel} does not divide {gpus}"
    if num_gpus % config[ULYSSES]:
        yield f"settings.config.{ULYSSES}: {config[ULYSSES]} does not divide {gpus}"
    place, prompts = "grpo.prompts_per_step", settings.grpo.prompts_per_step
    if MINI in config:  # then these are what is spread over the GPUs
        place, prompts = f"config.{MINI}", config[MINI]
    if prompts % num_gpus:
        yield f"settings.{place}: {prompts} is no multiple of {gpus}"


def _batch_problems(
    settings: EasyR1Model, num_gpus: int, config: Mapping[str, int]
) -> Iterator[str]:
    """Yield what `RayPPOTrainer`, or a `FSDPWorker` with its share, would raise."""
    grpo = settings.grpo
    one = f"that one of {num_gpus} GPUs has"
    shares = max(num_gpus // config[ULYSSES], 1)
    answers = grpo.prompts_per_step * grpo.samples_per_prompt
    of = "of a step (grpo.prompts_per_step x samples_per_prompt)"
    if answers % config[EXPERIENCE]:
        yield _uneven(EXPERIENCE, config, answers, of)
    elif not config[DYNAMIC] and answers / shares % config[EXPERIENCE]:
        yield _uneven(EXPERIENCE, config, answers / shares, f"{one} {of} without {DYNAMIC}")
    answers = grpo.mini_batch * grpo.samples_per_prompt
    if answers / shares % config[UPDATE]:
        of = "of an optimizer step (grpo.mini_batch x samples_per_prompt)"
        yield _uneven(UPDATE, config, answers / shares, f"{one} {of}")


def _uneven(key: str, config: Mapping[str, int], answers: float, of: str) -> str:
    return f"settings.config.{key}: {config[key]} does not divide the {answers:g} answers {of}"
