"""A recipe that lets a checkpoint's code run: every place of it is told, in run and dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.remote_code import remote_code_notes
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import DataSpec, EvaluationSpec, EvaluationTask

RUN = DataSpec(path="d", column="text", template=None, split="train")


def places(recipe):
    return [note.split(": ")[1] for note in remote_code_notes(recipe)]


def with_settings(make_recipe, settings, **keys):
    tasks = EvaluationSpec(tasks=(), every=1, before_recovery=False)
    stage = StageSpec(backend="b", settings=settings)
    return make_recipe(**{"stages": (stage,), "data": RUN, "evaluation": tasks, **keys})


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"trust_remote_code": "true"}, "trust_remote_code"),
        ({"config": {"actor_rollout_ref.model.trust_remote_code": True}},
         "config.actor_rollout_ref.model.trust_remote_code"),
        ({"config": {"data": {"trust_remote_code": 1}}}, "config.data.trust_remote_code"),
        ({"models": [{"+trust_remote_code": True}]}, "models.0.+trust_remote_code"),
    ],
)  # fmt: skip
def test_every_switch_that_is_on_is_told(make_recipe, settings, key):
    assert places(with_settings(make_recipe, settings)) == [f"recover.0.settings.{key}"]
    assert places(with_settings(make_recipe, settings, data=None)) == [key]


@pytest.mark.parametrize("value", [False, None, 0, "", "false", "False", "no"])
def test_switches_that_are_off_are_not(make_recipe, value):
    assert places(with_settings(make_recipe, {"trust_remote_code": value})) == []


def test_tasks_are_told_as_well(make_recipe):
    task = EvaluationTask(evaluator="e", settings={"trust_remote_code": True})
    evaluation = EvaluationSpec(tasks=(task,), every=1, before_recovery=False)
    recipe = with_settings(make_recipe, {}, evaluation=evaluation)
    assert remote_code_notes(recipe) == [
        f"{Path('recipe.yaml')}: evaluate.tasks.0.trust_remote_code: true: Python code that lies "
        "in the checkpoint will be run"
    ]
