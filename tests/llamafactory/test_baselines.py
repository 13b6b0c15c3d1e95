"""The baselines run: by `ptl run` with LLaMA-Factory's recovery, and by LLaMA-Factory itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from workplace import BASE, Workplace, recipe, records

from ptl_plugins.scores_file import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SETTINGS = {
    "use_cpu": True,
    "bf16": True,
    "cutoff_len": 64,
    "per_device_train_batch_size": 4,
    "learning_rate": 1.0e-3,
    "num_train_epochs": 1.0,
}
SCHEDULES = {
    "shortgpt": [{"unit": "layer", "criterion": "block_influence", "amount": 2}],
    "prune_once": [{"unit": "neuron", "amount": 16}, {"unit": "layer", "amount": 1}],
    "control": [{"unit": "none", "rounds": 3}],
}
"""As the recipes have them; prune_once is in `order: together`."""
ENDS = {"shortgpt": (3, 48), "prune_once": (4, 32), "control": (5, 48)}


@pytest.fixture(scope="module")
def runs(workplace: Workplace) -> dict[str, Path]:
    for name, schedule in SCHEDULES.items():
        keys = {
            "model": "model",
            "run_dir": f"baseline_{name}",
            "data": {"path": "data/tiny.jsonl"},
            "order": "together",
            "calibration": {"num_sequences": 16, "max_length": 64},
            "schedule": schedule,
            "recover": [{"backend": "llamafactory", "settings": SETTINGS}],
            "evaluate": {**BASE["ptl"]["evaluate"], "every": 3},
            "keep": {"intermediate": True},
        }
        workplace.write(f"baseline_{name}.yaml", keys)
        workplace.run("ptl", "run", f"baseline_{name}.yaml")
    return {name: workplace.folder / f"baseline_{name}" for name in SCHEDULES}


def documents(run: Path) -> list[str]:
    """Return every document that the stages of all rounds were given."""
    parts = sorted(run.glob("round_*/stage_0/data/part.jsonl"))
    lines = [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
    return sorted(json.loads(line)["text"] for line in lines)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_baseline_ends_in_its_shape_trained_by_llamafactory(runs, name):
    *_, last = records(runs[name])
    assert (last["num_layers"], last["width"]) == ENDS[name]
    assert [stage["backend"] for stage in last["stages"]] == ["llamafactory"]
    assert last["recovered"]["metrics"]["cot_loss"] > 0


@pytest.mark.parametrize("name", ["shortgpt", "prune_once"])
def test_one_round_recovers_on_the_documents_of_all_rounds_of_the_control(runs, name):
    seen = documents(runs[name])
    assert len(seen) == 240
    assert seen == documents(runs["control"])
    assert (len(records(runs[name])), len(records(runs["control"]))) == (2, 4)


def test_shortgpt_removes_the_least_of_what_one_profile_measured(runs, registry):
    folder = runs["shortgpt"] / "round_01"
    scores, _ = read_scores(folder / "scores.safetensors")
    influence = registry.criteria.get("block_influence").importance(scores)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert plan["removed_layers"] == sorted(influence.argsort(kind="stable")[:2].tolist())
    about = json.loads((folder / "model" / "ptl_pruning.json").read_text(encoding="utf-8"))
    assert about["layers"] == [i for i in range(5) if i not in plan["removed_layers"]]


def test_the_report_puts_the_baselines_beside_the_control(runs, workplace):
    names = [f"baseline_{name}" for name in SCHEDULES]
    done = workplace.run("ptl", "report", *names, COLUMNS="250")
    assert "baseline_control (nothing cut)" in done.stdout
    assert "Control: baseline_control." in done.stdout


def test_two_processes_of_llamafactory_prune_by_gradients(workplace, registry):
    """Taylor and Wanda in LLaMA-Factory's own door: both ranks remove the same."""
    section = {
        **BASE["ptl"],
        "schedule": [
            {"unit": "neuron", "criterion": "taylor", "amount": 8},
            {"unit": "neuron", "criterion": "wanda_structured", "amount": 8},
            {"unit": "layer", "criterion": "block_influence", "amount": 2},
        ],
    }
    workplace.write("by_gradients.yaml", recipe(output_dir="by_gradients", ptl=section))
    workplace.run(
        "llamafactory-cli", "train", "by_gradients.yaml", FORCE_TORCHRUN="1", NPROC_PER_NODE="2"
    )
    run = workplace.folder / "by_gradients"
    assert [(r["num_layers"], r["width"]) for r in records(run)] == [
        (5, 48), (5, 40), (5, 32), (3, 32),
    ]  # fmt: skip
    scores, _ = read_scores(run / "round_01" / "scores.safetensors")
    importance = registry.criteria.get("taylor").importance(scores)
    assert (importance > 0).all()
    plan = json.loads((run / "round_01" / "plan.json").read_text(encoding="utf-8"))
    lowest = np.sort(importance.argsort(axis=-1, kind="stable")[:, :8], axis=-1)
    assert plan["removed_neurons"] == lowest.tolist()
