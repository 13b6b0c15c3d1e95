"""Tiny run folders, written as a run writes them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ptl_plugins.geometry import geometry
from ptl_plugins.report.runs import read_runs
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import StageSpec, StageTime
from ptl_plugins.types import (
    Cut,
    EvalResult,
    EvaluationSpec,
    EvaluationTask,
    RoundRecord,
    RoundSpec,
)

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FACTS = {
    "recipe_file": "recipe.yaml",
    "recipe_text": "seed: 0\n",
    "started": "2026-01-02T03:04:05Z",
    "seed": 0,
    "num_ranks": 1,
    "versions": {"python": "3.11.7", "torch": "2.11.0"},
    "plugins": ["builtin", "steps"],
    "hardware": {"processor": "A CPU", "cores": 2, "memory_gb": 4.0, "accelerators": []},
}
SECONDS = {"profile": 2.0, "select": 0.5, "prune": 0.5, "recover": 9.0, "evaluate": 1.0}
PLANNED = (StageSpec(backend="fake", settings={}),)
STAGES = (StageTime(backend="fake", wall_seconds=8.0, devices=4),)
NEURONS = Cut(unit="neuron", criterion="output_change", selector="count", amount=8.0)
LAYER = Cut(unit="layer", criterion="l2", selector="count", amount=1.0)
HIDDEN = Cut(unit="hidden", criterion="slicegpt", selector="count", amount=8.0)


def _steps_right(number):
    """Metrics in the form of `chain_of_thought`: 40 steps, `number` of them right."""
    return {
        "cot_loss": 2.0 - number / 40,
        "step_accuracy": number / 40,
        "num_steps": 40.0,
        "num_problems": 10.0,
    }


@pytest.fixture(scope="session")
def steps_right():
    """Make metrics of 40 steps, so many of them right."""
    return _steps_right


@pytest.fixture(scope="session")
def cuts():
    """The cuts of the tiny runs: 8 neurons of each layer, one layer, and 8 directions."""
    return SimpleNamespace(neurons=NEURONS, layer=LAYER, hidden=HIDDEN)


@pytest.fixture
def model(tmp_path):
    """A folder with the config of a tiny model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def sizes(registry):
    """The sizes of the tiny model."""
    return geometry(CONFIG, registry.families.get("qwen2"))


@pytest.fixture
def write_run(tmp_path, make_recipe, model, sizes):
    """Write a run: `cuts` are its rounds, `done` how many of them are recorded.

    `metrics(round)` and `pruned(round)` give what was measured, or None; `planned` are the
    recipe's stages, `stages` the times that every round's record has of them.
    """

    def write(
        name="run", cuts=(NEURONS, NEURONS, LAYER), *, done=None, metrics=None, pruned=None,
        seconds=SECONDS, stages=STAGES, facts=FACTS, tasks=("chain_of_thought",), planned=PLANNED,
        **keys,
    ):  # fmt: skip
        folder, now = tmp_path / name, sizes
        rounds = tuple(
            RoundSpec(index=index, cuts=cut if isinstance(cut, tuple) else (cut,) if cut else ())
            for index, cut in enumerate(cuts, start=1)
        )
        evaluation = EvaluationSpec(
            tasks=tuple(EvaluationTask(evaluator=task) for task in tasks),
            every=1,
            before_recovery=pruned is not None,
        )
        recipe = make_recipe(
            **{
                "model": str(model),
                "rounds": rounds,
                "evaluation": evaluation,
                "stages": planned,
                **keys,
            }
        )
        run = RunFolder(folder, writes=True)
        run.open(recipe, facts)
        run._lock.release()
        for index in range((len(rounds) if done is None else done) + 1):
            spec = rounds[index - 1].cuts if index else ()
            for cut in spec:
                gone = int(cut.amount)
                if cut.unit == "hidden":
                    now = now.sliced(now.hidden - gone)
                now = now.after(
                    width=now.width - (gone if cut.unit == "neuron" else 0),
                    num_layers=now.num_layers - (gone if cut.unit == "layer" else 0),
                )
            run.finish_round(
                RoundRecord(
                    round=index,
                    num_layers=now.num_layers,
                    width=now.width,
                    num_parameters=now.num_parameters,
                    cuts=spec,
                    pruned=_result(pruned, index) if index else None,
                    recovered=_result(metrics, index),
                    seconds=seconds if index else {"evaluate": 1.0},
                    stages=stages if index else (),
                    hidden=now.hidden,
                )
            )
        return folder

    return write


def _result(measure, index):
    values = measure(index) if measure else None
    return EvalResult(metrics=values, seconds=1.0) if values else None


@pytest.fixture
def write_three(write_run):
    """Three runs that remove as much, in the three orders of Table 3."""

    def write():
        both = {
            "neurons_first": (NEURONS, NEURONS, LAYER, LAYER),
            "layers_first": (LAYER, LAYER, NEURONS, NEURONS),
            "in_turns": (NEURONS, LAYER, NEURONS, LAYER),
        }
        return [
            write_run(name, cuts, metrics=lambda index, at=at: _steps_right(20 - at - index))
            for at, (name, cuts) in enumerate(both.items())
        ]

    return write


@pytest.fixture
def read(registry):
    """Read run folders as the command does."""
    return lambda *folders: read_runs(folders, registry)
