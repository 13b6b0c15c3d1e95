"""Every shipped recipe that claims to run on a CPU runs to its end, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from workplace import Workplace, records

from ptl_plugins.quickstart.miniature import BUDGETS
from ptl_plugins.shipped_recipes import STUDY, recipe_files, recipes_folder
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint, write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DATASETS = {
    "mini": {f"mini_{budget}": f"mini_{budget}" for budget in BUDGETS},
    "quickstart": {"gsm_symbolic": "train"},
}
"""By folder of the recipes, their datasets and these files' names."""
RECIPES = {
    str(path.relative_to(recipes_folder())): path
    for path in recipe_files()
    if path.relative_to(recipes_folder()).parts[0] in DATASETS
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    """What `ptl miniature` and `ptl quickstart` write, with SmolLM2's layers and width."""
    folder = tmp_path_factory.mktemp("cpu_recipes")
    for name, datasets in DATASETS.items():
        write_tiny_checkpoint(folder / name / "model", num_hidden_layers=30, intermediate_size=1536)
        data = write_tiny_corpus(folder / name / "data")
        texts = (data / "tiny.jsonl").read_text(encoding="utf-8")
        for file in datasets.values():
            (data / f"{file}.jsonl").write_text(texts, encoding="utf-8")
        entries = {
            dataset: {"file_name": f"{file}.jsonl", "columns": {"prompt": "text"}}
            for dataset, file in datasets.items()
        }
        (data / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
        others = (json.dumps({"text": text}) + "\n" for text in tiny_texts(60, seed=2))
        (data / "other_text.jsonl").write_text("".join(others), encoding="utf-8")
    return Workplace(folder)


def test_there_are_as_many_as_the_folders_hold():
    assert len(RECIPES) == 11


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_for_a_cpu_runs_to_its_end(place, name):
    keys = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    door = ("llamafactory-cli", "train") if "ptl" in keys else ("ptl", "run")
    place.run(*door, str(RECIPES[name]))
    run = place.folder / Path(keys.get("output_dir") or keys["run_dir"])
    found = records(run)
    phases = keys.get("ptl", keys)["schedule"]
    together = keys.get("ptl", keys).get("order") == "together"
    rounds = [phase.get("rounds", 1) for phase in phases]
    assert len(found) == 1 + (max(rounds) if together else sum(rounds))
    first, last = (found[index]["recovered"]["metrics"] for index in (0, -1))
    assert set(first) == set(last) >= {"cot_loss"}


def test_every_run_of_the_miniature_study_is_checked_and_could_start(place):
    study = recipes_folder() / "mini" / STUDY
    said = place.run("ptl", "study", str(study), "--folder", "runs", "--dry-run").stdout
    runs = yaml.safe_load(study.read_text(encoding="utf-8"))["runs"]
    number = sum(len(run.get("seeds", [1])) for run in runs.values())
    assert number == 70
    assert [line.split("]")[0] for line in said.splitlines()] == [
        f"[{at}/{number}" for at in range(1, number + 1)
    ]
    assert not (place.folder / "runs").exists()
