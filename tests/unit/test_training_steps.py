"""Steps of a stage's program become events of the run."""

import json

import pytest

from ptl_plugins.run_folder import EVENTS, RunFolder
from ptl_plugins.training_steps import note_steps


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.path.mkdir()
    return folder


def events(run):
    path = run.path / EVENTS
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        {key: value for key, value in json.loads(line).items() if key != "time"} for line in lines
    ]


def test_each_line_becomes_an_event_of_its_round_and_stage(run, tmp_path):
    steps = tmp_path / "steps.jsonl"
    steps.write_text('{"step": 1, "reward": 0.25}\n{"step": 2, "reward": null}\n')
    assert note_steps(run, steps, round_index=3, stage=1) == 2
    first = {"event": "training_step", "round": 3, "stage": 1, "step": 1, "reward": 0.25}
    assert events(run) == [first, {**first, "step": 2, "reward": None}]


def test_a_line_that_was_cut_short_or_claims_another_round_harms_nothing(run, tmp_path):
    steps = tmp_path / "steps.jsonl"
    steps.write_text('{"step": 1, "round": 9, "time": 0, "event": "other"}\n[1]\n{"step": 2, "rew')
    assert note_steps(run, steps, round_index=1, stage=0) == 1
    assert events(run) == [{"event": "training_step", "round": 1, "stage": 0, "step": 1}]


def test_a_program_that_noted_nothing_leaves_no_event(run, tmp_path):
    assert note_steps(run, tmp_path / "none", round_index=1, stage=0) == 0
    assert events(run) == []
