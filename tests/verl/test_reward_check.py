"""Whether answers can be judged where a stage trains."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from verl_ext import reward_check
from verl_ext.grpo_settings import RewardModel
from verl_ext.reward_check import reward_problem

PTLS = RewardModel()


@pytest.fixture
def interpreter(tmp_path):
    """Write a program that stands for an interpreter: a line of the shell."""

    def write(line):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o755)
        reward_check._judge_problem.cache_clear()
        return str(path)

    return write


@pytest.mark.skipif(not importlib.util.find_spec("math_verify"), reason="needs math-verify")
def test_this_interpreter_judges():
    assert reward_problem(sys.executable, PTLS) is None


def test_an_interpreter_without_a_library_is_one_line(interpreter):
    python = interpreter(f'exec {sys.executable} -I -S "$@"')
    found = reward_problem(python, PTLS)
    assert found.startswith("settings.reward: ")
    assert "can import neither math_verify nor mathruler: install math-verify" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo first; echo last; exit 1", "settings.reward: last"),
        ("echo oops >&2; exit 1", "settings.reward: oops"),
        ("exit 1", "settings.reward: it said nothing"),
    ],
)
def test_what_the_program_says_last_is_the_line(interpreter, line, told):
    assert reward_problem(interpreter(line), PTLS) == told


def test_what_is_no_interpreter_is_one_line(tmp_path):
    found = reward_problem(str(tmp_path / "none"), PTLS)
    assert found == (
        f"settings.reward: {tmp_path}/none cannot be started (No such file or directory)"
    )


def test_a_reward_of_the_users_own_is_not_asked(tmp_path):
    own = RewardModel(file="reward.py", function="score")
    assert reward_problem(str(tmp_path / "none"), own) is None
