"""`ptl study` with the real LLaMA-Factory: killed, resumed, recorded, and its page made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from workplace import BASE, recipe, records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CUT = {**BASE["ptl"], "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}]}
NOTHING = {**BASE["ptl"], "schedule": [{"unit": "none"}]}
STUDY = {
    "title": "Two rounds",
    "set": {"max_steps": 2},
    "runs": {
        "from_control": {
            "recipe": "control.yaml",
            "set": {"ptl.distill": {"teacher": "{control}", "weight": 1.0}},
        },
        "too_long": {"recipe": "control.yaml", "set": {"cutoff_len": 100000}},
        "control": {"recipe": "control.yaml", "keep": "none"},
        "cut": {"recipe": "cut.yaml"},
    },
    "pairs": [["cut", "from_control"]],
    "tables": [
        {"title": "Table 1", "runs": ["control", "cut", "from_control", "too_long"]},
        {"title": "Budget", "x": "tokens", "lines": {"all": ["cut", "control"]}},
    ],
}
RUN = ("ptl", "study", "study/study.yaml", "--folder", "runs")


@pytest.fixture(scope="module")
def started(workplace):
    """The folder of a study that was killed in the second round of a run, and then went on."""
    (workplace.folder / "study").mkdir()
    for name, section in (("control", NOTHING), ("cut", CUT)):
        workplace.write(f"study/{name}.yaml", recipe(ptl=section))
    workplace.write("study/study.yaml", STUDY)
    folder = workplace.folder / "runs"
    process = workplace.start(*RUN)
    workplace.kill_when(process, folder / "cut/seed_1/run/round_01/record.json")
    assert (folder / "cut/seed_1/program.json").exists()  # which the killed study left running
    return folder, workplace.run(*RUN, code=1)


@pytest.fixture(scope="module")
def recorded(workplace, started):
    """The folder of the study's records."""
    workplace.run(*RUN, "--record", "records")
    return workplace.folder / "records"


def test_the_same_command_goes_on_and_tells_what_failed(started):
    folder, done = started
    assert "control, seed 1: is finished" in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("ptl: too_long")]
    assert "does not fill one block of cutoff_len 100000" in said
    assert [record["round"] for record in records(folder / "cut/seed_1/run")] == [0, 1, 2]
    events = (folder / "cut/seed_1/run/events.jsonl").read_text("utf-8").splitlines()
    finished = [e["round"] for e in map(json.loads, events) if e["event"] == "round_finished"]
    assert finished == [0, 1, 2]  # none of them twice


def test_a_pupil_learns_from_the_model_of_its_teacher(started):
    folder, _ = started
    keys = yaml.safe_load((folder / "from_control/seed_1/recipe.yaml").read_text("utf-8"))
    assert keys["ptl"]["distill"]["teacher"] == str(folder / "control/seed_1/run")
    assert len(records(folder / "from_control/seed_1/run")) == 2


def test_weights_go_as_soon_as_nobody_needs_them(started):
    folder, _ = started
    weights = {p.relative_to(folder).parent for p in folder.rglob("model*.safetensors")}
    assert weights == {Path("cut/seed_1/run"), Path("from_control/seed_1/run")}


def test_records_are_small_and_without_paths(recorded):
    texts = [path.read_text("utf-8") for path in recorded.rglob("*") if path.is_file()]
    assert sum(map(len, texts)) < 4 * 12_000
    assert not any(str(recorded.parent) in text for text in texts)
    (training, _) = json.loads((recorded / "cut/seed_1/outcome.json").read_text())["trainings"]
    assert (training["steps"], training["tokens"]) == (2, 2 * 4 * 64)


def test_the_page_is_made_of_the_records_alone(workplace, recorded):
    made = []
    for name in "ab":
        words = ("--from", "records", "--page", f"{name}/page.md")
        workplace.run("ptl", "study", "study/study.yaml", *words)
        made.append((workplace.folder / name / "page.md").read_bytes())
    assert made[0] == made[1]
    text = made[0].decode()
    assert "3 of 4 runs are finished" in text
    assert text.count("too_long, seed 1: failed") == 2
    assert "| cut - from_control | cot_loss | 1 |" in text
    assert (workplace.folder / "a" / "budget_cot_loss.png").exists()
