"""Whether the interpreter of a stage has a library that judges answers."""

from __future__ import annotations

import functools

from ptl_plugins.framework_question import NoAnswerError, run_alone
from verl_ext.grpo_settings import RewardModel
from verl_ext.grpo_stage import REWARD

TIMEOUT = 120.0


def reward_problem(python: str, reward: RewardModel) -> str | None:
    """Return why PTL's reward cannot judge in `python`, in one line, or None.

    A reward of the user's own is not asked.
    """
    return None if reward.file else _judge_problem(python)


@functools.lru_cache
def _judge_problem(python: str) -> str | None:
    words = (python, str(REWARD), "--check")
    try:
        done = run_alone(words, framework="math-verify", timeout=TIMEOUT)
    except NoAnswerError as error:
        return f"settings.reward: {error}"
    if done.returncode == 0:
        return None
    lines = (done.stdout or done.stderr).strip().splitlines() or ["it said nothing"]
    return f"settings.reward: {lines[-1]}"
