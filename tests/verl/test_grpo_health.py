"""The health of a GRPO stage, from the lines that both frameworks' steps leave."""

from __future__ import annotations

import json
import math

import pytest

from ptl_plugins.health import HealthSpec, Step, first_trouble
from ptl_plugins.stage_types import TrainingReporter
from verl_ext import easyr1_launch
from verl_ext.easyr1_backend import EasyR1
from verl_ext.health import LOSSES, step_of, steps_of
from verl_ext.in_verl.step_metrics import FIELDS, append_line, step_line
from verl_ext.verl_backend import Verl


def verl_line(step, **metrics):
    return step_line(step, metrics)


def easyr1_line(step, **metrics):
    return json.dumps({"step": step, **easyr1_launch.step_facts(metrics)}) + "\n"


LINES = pytest.mark.parametrize("line", [verl_line, easyr1_line])


def metrics(length=100.0, reward=0.5, norm=0.3, kl=0.01):
    return {
        "response_length/mean": length, "critic/rewards/mean": reward, "actor/grad_norm": norm,
        "actor/kl_loss": kl,
    }  # fmt: skip


def trouble(path):
    return first_trouble(steps_of(path), HealthSpec(), vocabulary=256)


@LINES
def test_a_healthy_stage_has_no_trouble_and_its_numbers_are_read(tmp_path, line):
    path = tmp_path / "steps.jsonl"
    for step in range(1, 30):
        append_line(path, line(step, **metrics(length=100.0 + step)))
    assert trouble(path) is None
    first = next(steps_of(path))
    assert first == Step(
        step=1, gradient_norm=0.3, length=101.0, reward=0.5, other={"KL divergence": 0.01}
    )


@LINES
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kl_divergence_that_is_not_finite_is_told(tmp_path, line, value):
    path = tmp_path / "steps.jsonl"
    text = line(4, **metrics(kl=value))
    assert json.loads(text, parse_constant=pytest.fail)["not_finite"] == ["kl"]
    append_line(path, text)
    assert trouble(path) == "the KL divergence is not finite at step 4"


@LINES
def test_gradient_norms_that_stay_not_finite_are_told(tmp_path, line):
    path = tmp_path / "steps.jsonl"
    for step in range(1, 6):
        append_line(path, line(step, **metrics(norm=math.nan)))
    assert trouble(path) == "the gradient norm is nan, not finite since step 1"


@LINES
def test_answers_that_collapse_are_told(tmp_path, line):
    path = tmp_path / "steps.jsonl"
    for step in range(1, 11):
        append_line(path, line(step, **metrics(length=200.0 if step < 6 else 3.0, reward=0.1)))
    assert "the generated answers have 3 tokens, since step 6" in trouble(path)


def test_lines_of_earlier_versions_and_no_file_are_read(tmp_path):
    assert step_of({"reward": None}) == Step(step=0)
    assert list(steps_of(tmp_path / "none.jsonl")) == list(steps_of(None)) == []


def test_both_backends_tell_and_the_fields_are_theirs():
    assert isinstance(Verl(), TrainingReporter)
    assert isinstance(EasyR1(), TrainingReporter)
    assert {*LOSSES, "gradient_norm", "response_length", "reward"} <= set(FIELDS)
