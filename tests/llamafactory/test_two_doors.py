"""One recipe through both doors: the same cuts in round 1, the same shapes at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from workplace import BASE, Workplace, records

from ptl_plugins.shipped_recipes import recipes_folder

pytestmark = pytest.mark.timeout(300)

TRAINING = (
    "use_cpu", "bf16", "cutoff_len", "per_device_train_batch_size",
    "gradient_accumulation_steps", "learning_rate", "num_train_epochs", "lr_scheduler_type",
    "warmup_ratio",
)  # fmt: skip
"""Keys that say how a stage trains; the others say on what, which PTL decides in `ptl run`."""


def the_other_door(keys: dict, *, data: str, run_dir: str) -> dict:
    """Return the recipe of `ptl run` for a LLaMA-Factory yaml with a `ptl:` section."""
    section = dict(keys["ptl"])
    section["calibration"] = {"max_length": keys["cutoff_len"], **section["calibration"]}
    settings = {
        key: keys[key] for key in (*TRAINING, "disable_gradient_checkpointing") if key in keys
    }
    stage = {"backend": "llamafactory", "settings": settings}
    model = keys["model_name_or_path"]
    return {
        "model": model,
        "run_dir": run_dir,
        "data": {"path": data},
        **section,
        "recover": [stage],
    }


@pytest.fixture(scope="module")
def other_run(workplace: Workplace) -> Path:
    workplace.write("other.yaml", the_other_door(BASE, data="data/tiny.jsonl", run_dir="other"))
    workplace.run("ptl", "run", "other.yaml")
    return workplace.folder / "other"


def test_both_doors_end_in_the_same_shapes(plain_run, other_run):
    keys = ("width", "num_layers", "num_parameters", "hidden")
    shapes = [[tuple(r[key] for key in keys) for r in records(run)]
              for run in (plain_run, other_run)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert {shape[-1] for shape in shapes[0]} == {32}, "neurons and layers leave the hidden size"
    assert len(shapes[0]) == 4


def test_both_doors_select_the_same_neurons_in_round_1(plain_run, other_run):
    plans = [json.loads((run / "round_01" / "plan.json").read_text())
             for run in (plain_run, other_run)]  # fmt: skip
    assert plans[0]["removed_neurons"] == plans[1]["removed_neurons"]
    assert len(plans[0]["removed_neurons"][0]) == 8


def test_both_doors_measure_the_same_original(plain_run, other_run):
    first = [records(run)[0]["recovered"]["metrics"] for run in (plain_run, other_run)]
    assert first[0] == pytest.approx(first[1])


def test_the_quickstart_is_one_recipe_in_both_doors():
    folder = recipes_folder() / "quickstart"
    one, other = (
        yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("smollm2_135m", "smollm2_135m_run")
    )
    expected = the_other_door(one, data="quickstart/data/train.jsonl", run_dir="quickstart/ptl_run")
    assert other == expected
