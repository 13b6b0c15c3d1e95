"""Kill -9, the same command again: the same weights as an uninterrupted run."""

from __future__ import annotations

import json

import pytest
from workplace import recipe, records

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    "moment",
    ["round_02/plan.json", "round_02/stage_0/trainer_log.jsonl", "round_03/scores.safetensors"],
)
def test_a_killed_run_ends_bit_identical(workplace, plain_run, moment):
    name = "killed_" + moment.replace("/", "_").replace(".", "_")
    workplace.write(f"{name}.yaml", recipe(output_dir=name))
    folder = workplace.folder / name
    process = workplace.start("llamafactory-cli", "train", f"{name}.yaml")
    workplace.kill_when(process, folder / moment)
    interrupted = int(moment[len("round_") :][:2])
    assert len(records(folder)) == interrupted  # round 0 and those before the interrupted one
    first = (folder / "round_01" / "record.json").read_bytes()

    workplace.run("llamafactory-cli", "train", f"{name}.yaml")

    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (plain_run / "model.safetensors").read_bytes()
    assert (folder / "round_01" / "record.json").read_bytes() == first  # not done again
    assert not list(folder.rglob("*.ptl-tmp"))


def test_finished_rounds_are_not_repeated(plain_run):
    events = [json.loads(line) for line in (plain_run / "events.jsonl").read_text().splitlines()]
    finished = [event["round"] for event in events if event["event"] == "round_finished"]
    assert finished == [0, 1, 2, 3]
