"""What is recorded of a study's folder, and what is left there."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from ptl_plugins.errors import PTLError
from ptl_plugins.study.jobs import all_jobs
from ptl_plugins.study.recording import record_study
from ptl_plugins.study.run_state import RunState, write_state

RUNS = {"ptl": {"recipe": "a.yaml", "seeds": [1, 2]}, "once": {"recipe": "a.yaml"}}
STATE = RunState(
    status="finished", tries=2, seconds=9.5, asked={}, data={"/a/place/data/tiny.jsonl": "abc"}
)


@pytest.fixture
def desk(desk_of, tmp_path, write_record):
    """A desk for a study, of which one job is finished and one has failed before its first step."""
    found = desk_of(runs=RUNS)
    done, failed, _ = all_jobs(found.study, tmp_path / "F")  # ptl 1, once 1; ptl 2 has not run
    for job, state in (
        (done, STATE),
        (failed, RunState(status="failed", tries=1, seconds=1.0, asked={},
                          reason=f"{tmp_path}/F/x/y: is no file")),
    ):  # fmt: skip
        job.folder.mkdir(parents=True)
        keys = {"model": str(tmp_path / "models" / "tiny"), "seed": job.seed}
        job.recipe.write_text(yaml.safe_dump(keys), encoding="utf-8")
        write_state(job, state)
    write_record("ptl", 1).rename(done.run_folder)
    shutil.rmtree(tmp_path / "records")
    (done.run_folder / "outcome.json").unlink()
    for name, size in (("model.safetensors", 9), ("round_01/plan.json", 9_000)):
        (done.run_folder / name).write_text(json.dumps("w" * size), encoding="utf-8")
    (done.run_folder / "round_02" / "plan.json").write_text('{"removed_layers": [3]}')
    return found


def record(desk, tmp_path):
    record_study(desk, tmp_path / "F", tmp_path / "D", lambda line: None)
    return tmp_path / "D"


def test_records_are_kept_and_weights_and_long_plans_are_not(desk, tmp_path):
    folder = record(desk, tmp_path) / "ptl" / "seed_1"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    rounds = ["round_00/record.json", "round_01/record.json"]
    rounds += ["round_02/plan.json", "round_02/record.json"]
    assert files == ["config.json", "manifest.json", "outcome.json", "recipe.yaml", *rounds]
    outcome = json.loads((folder / "outcome.json").read_text())
    assert (outcome["status"], outcome["tries"], len(outcome["trainings"])) == ("finished", 2, 2)
    assert outcome["data"] == {"tiny.jsonl": "abc"}


def test_no_path_of_the_machine_is_recorded(desk, tmp_path):
    folder = record(desk, tmp_path)
    assert yaml.safe_load((folder / "ptl/seed_1/recipe.yaml").read_text())["model"] == "models/tiny"
    failed = folder / "once/seed_1"
    assert json.loads((failed / "outcome.json").read_text())["reason"] == "x/y: is no file"
    texts = (path.read_text() for path in folder.rglob("*.*"))
    assert not any(str(tmp_path) in text for text in texts)


def test_what_was_not_started_keeps_an_earlier_record(desk, tmp_path):
    earlier = tmp_path / "D" / "ptl" / "seed_2" / "outcome.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("kept")
    stale = tmp_path / "D" / "ptl" / "seed_1" / "stale.json"
    stale.parent.mkdir()
    stale.write_text("old")
    record(desk, tmp_path)
    assert earlier.read_text() == "kept"
    assert not stale.exists()


def test_the_same_records_are_written_twice(desk, tmp_path):
    first = {p: p.read_bytes() for p in record(desk, tmp_path).rglob("*.*")}
    assert first == {p: p.read_bytes() for p in record(desk, tmp_path).rglob("*.*")}


def test_a_folder_without_runs_has_nothing_to_record(desk, tmp_path):
    with pytest.raises(PTLError, match=r"no run of .* was started there"):
        record_study(desk, tmp_path / "G", tmp_path / "D", lambda line: None)
    assert not (tmp_path / "D").exists()
