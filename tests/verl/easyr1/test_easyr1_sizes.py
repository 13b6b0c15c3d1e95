"""Sizes that do not fit are told before anything starts."""

from __future__ import annotations

import pytest

from verl_ext.easyr1_sizes import size_problems
from verl_ext.grpo_settings import EasyR1Model

GPUS = "the stage's 8 GPUs (launch.processes x nodes)"
GRPO = {"prompts_per_step": 128, "mini_batch": 128, "samples_per_prompt": 8}

CLUSTER = {"ray_address": "10.0.0.1:6379"}


def found(*, grpo=GRPO, processes=8, **keys):
    settings = {"home": "EasyR1", "problems": {"path": "p"}, "grpo": {**GRPO, **grpo}, **keys}
    return list(size_problems(EasyR1Model.model_validate(settings), processes))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"tensor_parallel": 3}, f"settings.tensor_parallel: 3 does not divide {GPUS}"),
        (
            {"tensor_parallel": 3, "nodes": 2, "processes": 4, **CLUSTER},
            "3 does not divide the stage's 8",
        ),
        (
            {"config": {"worker.actor.ulysses_size": 3}},
            f"settings.config.worker.actor.ulysses_size: 3 does not divide {GPUS}",
        ),
        (
            {"grpo": {"prompts_per_step": 124, "mini_batch": 124}, "processes": 8},
            f"settings.grpo.prompts_per_step: 124 is no multiple of {GPUS}",
        ),
        (
            {"config": {"data.mini_rollout_batch_size": 12}},
            f"settings.config.data.mini_rollout_batch_size: 12 is no multiple of {GPUS}",
        ),
        (
            {"config": {"worker.actor.micro_batch_size_per_device_for_experience": 24}},
            "24 does not divide the 1024 answers of a step (grpo.prompts_per_step x "
            "samples_per_prompt)",
        ),
        (
            {"config": {"worker": {"actor": {"micro_batch_size_per_device_for_update": 24}}}},
            "24 does not divide the 128 answers that one of 8 GPUs has of an optimizer step",
        ),
        (
            {
                "grpo": {"prompts_per_step": 8, "mini_batch": 8},
                "config": {"worker.actor.dynamic_batching": False},
            },
            "_experience: 16 does not divide the 8 answers that one of 8 GPUs has of a step",
        ),
        (
            {"grpo": {"mini_batch": 1}},
            "settings.config.worker.actor.micro_batch_size_per_device_for_update: 4 does not "
            "divide the 1 answers",
        ),
        (
            {"grpo": {"max_prompt_length": 2000, "max_response_length": 7000}},
            "settings.config.worker.rollout.max_num_batched_tokens: 8192 is less than the 9000",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_one_line(keys, line):
    (problem,) = found(**keys)
    assert line in problem


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"tensor_parallel": 8},
        {"nodes": 4, **CLUSTER},
        {"config": {"worker.actor.ulysses_size": 2}},
        {"grpo": {"prompts_per_step": 8, "mini_batch": 8}},
        {
            "grpo": {"prompts_per_step": 8, "mini_batch": 8},
            "config": {"worker.actor.dynamic_batching": False, "worker.actor.ulysses_size": 2},
        },
        {
            "grpo": {"max_response_length": 9000},
            "config": {"worker.rollout.max_num_batched_tokens": 16384},
        },
        {
            "grpo": {"prompts_per_step": 12, "mini_batch": 12},
            "config": {"data.mini_rollout_batch_size": 8},
        },
    ],
)
def test_sizes_that_fit_pass(keys):
    assert found(**keys) == []
