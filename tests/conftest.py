"""What tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.families import Family
from ptl_plugins.manager import PTLPluginManager, build_manager, build_registry
from ptl_plugins.registry import Registry
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import (
    CalibrationSpec,
    Cut,
    EvaluationSpec,
    EvaluationTask,
    PrunePlan,
    Recipe,
    RoundSpec,
)


@pytest.fixture(scope="session")
def manager() -> PTLPluginManager:
    """The built-in plugins alone."""
    return build_manager(autoload=False)


@pytest.fixture(scope="session")
def registry(manager) -> Registry:
    """What the built-in plugins register."""
    return build_registry(manager)


@pytest.fixture(scope="session")
def make_plan():
    """Plans for a live model: the same neurons of every layer, or a row per layer."""

    def make(model, family: Family, neurons=(), layers=()) -> PrunePlan:
        from ptl_plugins.live import decoder_layers, width

        depth = len(decoder_layers(model, family))
        rows = tuple(neurons)
        if rows and isinstance(rows[0], int):
            rows = (rows,) * depth
        return PrunePlan(
            num_layers=depth,
            width=width(model, family),
            removed_neurons=tuple(tuple(row) for row in rows),
            removed_layers=tuple(layers),
            criteria={"neuron": "activation_max"},
            scores_digest="a digest",
        )

    return make


@pytest.fixture
def make_recipe(tmp_path):
    """A recipe of two rounds that cut 2 neurons each; keys override it."""

    def make(**keys) -> Recipe:
        cut = Cut(unit="neuron", criterion="activation_max", selector="count", amount=2.0)
        rounds = tuple(RoundSpec(index=index, cuts=(cut,)) for index in (1, 2))
        task = EvaluationTask(evaluator="fake")
        facts = {
            "source": Path("recipe.yaml"),
            "model": "a/model",
            "family": None,
            "seed": 0,
            "run_folder": tmp_path / "run",
            "rounds": rounds,
            "multiple_of": 1,
            "refit": "none",
            "protect": None,
            "calibration": CalibrationSpec(num_sequences=4, max_length=None, batch_tokens=64),
            "stages": (StageSpec(backend="fake", settings={"learning_rate": 1e-5}),),
            "evaluation": EvaluationSpec(tasks=(task,), every=1, before_recovery=False),
            "text": "the recipe's text",
        }
        return Recipe(**{**facts, **keys})

    return make
