"""The run folder survives kills, refuses strangers, and reads back what it wrote."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from ptl_plugins.durable import (
    TEMPORARY_SUFFIX,
)
from ptl_plugins.errors import RunFolderError
from ptl_plugins.run_folder import (
    LATER_KEYS,
    RunFolder,
    read_plan,
    read_record,
    recipe_keys,
    write_plan,
)
from ptl_plugins.stage_types import LaunchSpec, StageSpec, StageTime
from ptl_plugins.types import Cut, DistillSpec, EvalResult, KeepSpec, PrunePlan, RoundRecord

HOLDER = """
import sys, time
from pathlib import Path
from ptl_plugins.run_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""

CUT = Cut(unit="neuron", criterion="activation_max", selector="count", amount=2.0)


def record(index, **keys):
    return RoundRecord(round=index, num_layers=5, width=46, num_parameters=1234, **keys)


FULL = record(
    1,
    cuts=(CUT,),
    plan_digest="p",
    model_digest="m",
    pruned=EvalResult(metrics={"loss": 3.5}, seconds=0.1),
    recovered=EvalResult(metrics={"loss": 0.1 + 0.2}, seconds=0.2),
    seconds={"profile": 0.5},
    stages=(
        StageTime(backend="llamafactory", wall_seconds=0.3, devices=2),
        StageTime(backend="verl", wall_seconds=None, devices=None),
    ),
)


@pytest.fixture
def run(make_recipe, tmp_path):
    run = RunFolder(tmp_path / "run", writes=True)
    run.open(make_recipe(), {"versions": {"torch": "2"}})
    yield run
    if run._lock is not None:
        run._lock.release()


@pytest.fixture
def begun(run):
    """A run whose original is recorded."""
    run.finish_round(record(0))
    return run


@pytest.fixture
def holder(tmp_path):
    """Another living process that holds a folder's lock."""
    folder = tmp_path / "held"
    folder.mkdir()
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


def events(run):
    text = (run.path / "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["event"] for line in text.splitlines()]


def test_opening_writes_manifest_and_event(run, make_recipe):
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"] == recipe_keys(make_recipe())
    assert manifest["versions"] == {"torch": "2"}
    assert events(run) == ["opened"]


def test_the_same_recipe_from_another_file_is_the_same_run(begun, make_recipe, tmp_path):
    same = make_recipe(source=tmp_path / "copy.yaml", text="# another comment")
    RunFolder(begun.path, writes=False).check(same)


def test_where_and_how_long_stages_run_and_what_is_kept_may_change(begun, make_recipe):
    launch = LaunchSpec(launcher="slurm", timeout=9.0, options={"x": 1})
    stage = StageSpec(backend="fake", settings={"learning_rate": 1e-5}, launch=launch)
    keep = KeepSpec(rounds="last", intermediate=True)
    RunFolder(begun.path, writes=False).check(make_recipe(stages=(stage,), keep=keep))


def test_the_number_of_processes_may_not_change(begun, make_recipe):
    launch = LaunchSpec(processes=2)
    stage = StageSpec(backend="fake", settings={"learning_rate": 1e-5}, launch=launch)
    with pytest.raises(RunFolderError, match=r"stages\.0\.launch\.processes: 1 -> 2"):
        RunFolder(begun.path, writes=False).check(make_recipe(stages=(stage,)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"tokens": "final"}, "tokens: 'equal' -> 'final'"),
        (
            {"learning_rate_schedule": "run"},
            "learning_rate_schedule: 'round' -> 'run'",
        ),
        ({"model": "b/model"}, "model: 'a/model' -> 'b/model'"),
        (
            {"stages": (StageSpec(backend="fake", settings={"learning_rate": 2.0, "x": 1}),)},
            "stages.0.settings.learning_rate: 1e-05 -> 2.0, stages.0.settings.x: None -> 1",
        ),
    ],
)
def test_a_changed_recipe_is_refused_with_the_keys_that_differ(begun, make_recipe, change, told):
    with pytest.raises(RunFolderError) as raised:
        RunFolder(begun.path, writes=False).check(make_recipe(**change))
    assert f"another recipe ({told})" in str(raised.value)


def test_a_folder_from_before_a_key_existed_goes_on_as_it_was(begun, make_recipe):
    path = begun.path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for key in LATER_KEYS:
        del manifest["recipe"][key]
    del manifest["recipe"]["evaluation"]["original"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    RunFolder(begun.path, writes=False).check(make_recipe())
    with pytest.raises(RunFolderError, match="tokens: 'equal' -> 'final'"):
        RunFolder(begun.path, writes=False).check(make_recipe(tokens="final"))


def test_a_device_that_an_earlier_manifest_kept_is_no_difference(begun, make_recipe):
    path = begun.path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    kept = {"teacher": "original", "weight": 0.5, "dtype": None, "device": "cuda:0"}
    manifest["recipe"]["distill"] = kept
    path.write_text(json.dumps(manifest), encoding="utf-8")
    teacher = DistillSpec(teacher="original", weight=0.5, device="cuda:1")
    RunFolder(begun.path, writes=False).check(make_recipe(distill=teacher))


def test_another_recipe_may_take_a_folder_where_nothing_was_done_yet(run, make_recipe):
    run._lock.release()
    again = RunFolder(run.path, writes=True)
    again.open(make_recipe(seed=1), {})
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"]["seed"] == 1
    again._lock.release()


def test_fewer_rounds_are_another_recipe(begun, make_recipe):
    with pytest.raises(RunFolderError, match=r"rounds\.1\.cuts\.0\.amount: 2\.0 -> None"):
        RunFolder(begun.path, writes=False).check(make_recipe(rounds=make_recipe().rounds[:1]))


def test_a_refused_recipe_leaves_the_folder_as_it_was(begun, make_recipe):
    before = {p.name: p.read_bytes() for p in begun.path.iterdir() if p.is_file()}
    with pytest.raises(RunFolderError):
        RunFolder(begun.path, writes=True).open(make_recipe(seed=1), {})
    assert {p.name: p.read_bytes() for p in begun.path.iterdir() if p.is_file()} == before


def test_a_reopened_folder_keeps_its_manifest(begun, make_recipe):
    before = (begun.path / "manifest.json").read_bytes()
    begun._lock.release()
    again = RunFolder(begun.path, writes=True)
    again.open(make_recipe(), {"versions": {"torch": "3"}})
    assert (begun.path / "manifest.json").read_bytes() == before
    again._lock.release()


def test_only_the_main_rank_writes(tmp_path, make_recipe):
    other = RunFolder(tmp_path / "other", writes=False)
    other.open(make_recipe(), {})
    other.finish_round(record(0))
    other.event("x")
    assert not other.path.exists()


def test_a_living_run_keeps_others_out_and_names_pid_and_host(holder, make_recipe):
    folder, process = holder
    with pytest.raises(RunFolderError) as raised:
        RunFolder(folder, writes=True).open(make_recipe(), {})
    assert f"(pid {process.pid} on {socket.gethostname()})" in str(raised.value)


def test_the_lock_of_a_killed_run_is_free(holder, make_recipe):
    folder, process = holder
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = RunFolder(folder, writes=True)
    run.open(make_recipe(), {})
    owner = json.loads((folder / ".lock_owner.json").read_text(encoding="utf-8"))
    assert owner["pid"] == os.getpid()
    run._lock.release()


def test_two_runs_of_one_process_cannot_share_a_folder(run, make_recipe):
    with pytest.raises(RunFolderError, match=f"pid {os.getpid()} on"):
        RunFolder(run.path, writes=True).open(make_recipe(), {})


@pytest.mark.parametrize("value", [FULL, record(1)])
def test_a_record_comes_back_as_it_was(run, value):
    run.finish_round(record(0))
    run.finish_round(value)
    assert run.records() == (record(0), value)
    assert events(run)[-2:] == ["round_finished", "round_finished"]


def test_a_record_of_a_version_that_noted_no_hidden_size_is_read(run):
    noted = dataclasses.replace(FULL, hidden=32)
    run.finish_round(noted)
    path = run.round_folder(1) / "record.json"
    assert read_record(path) == noted
    keys = json.loads(path.read_text(encoding="utf-8"))
    assert keys.pop("hidden") == 32
    path.write_text(json.dumps(keys), encoding="utf-8")
    assert read_record(path) == FULL


def test_a_record_of_a_version_that_noted_no_stages_is_read(run):
    run.finish_round(record(0))
    path = run.round_folder(0) / "record.json"
    keys = json.loads(path.read_text(encoding="utf-8"))
    assert keys.pop("stages") == []
    path.write_text(json.dumps(keys), encoding="utf-8")
    assert run.records() == (record(0),)


def test_a_plan_comes_back_as_it_was(run):
    plan = PrunePlan(
        num_layers=2,
        width=4,
        removed_neurons=((0, 1), (2, 3)),
        removed_layers=(1,),
        criteria={"neuron": "activation_max", "layer": "l2"},
        scores_digest="s",
    )
    assert read_plan(run.round_folder(1)) is None
    write_plan(run, run.round_folder(1), plan)
    again = read_plan(run.round_folder(1))
    assert again == plan
    assert again.digest() == plan.digest()


def test_rounds_count_up_to_the_first_gap_and_the_original_is_not_one(run):
    assert (run.num_finished(), run.last_model(), run.records()) == (0, None, ())
    for index in (0, 1, 3):
        run.finish_round(record(index))
    assert run.num_finished() == 1
    assert run.last_model() == run.round_folder(1) / "model"
    assert [r.round for r in run.records()] == [0, 1]
    run.finish_round(record(2))
    assert run.num_finished() == 3


def test_a_round_without_its_record_is_not_finished(run):
    (run.round_folder(1) / "model").mkdir(parents=True)
    assert run.num_finished() == 0


def test_opening_removes_what_a_killed_run_left_at_any_depth(run, make_recipe):
    inner = run.round_folder(1) / ("model" + TEMPORARY_SUFFIX)
    inner.mkdir(parents=True)
    for file in (
        inner / "model.safetensors",
        inner / ("ptl_pruning.json" + TEMPORARY_SUFFIX),  # one inside another
        run.round_folder(1) / ("plan.json" + TEMPORARY_SUFFIX),
        run.path / ("manifest.json" + TEMPORARY_SUFFIX),
        run.round_folder(1) / "plan.json",
    ):
        file.write_text("{}", encoding="utf-8")
    run._lock.release()
    again = RunFolder(run.path, writes=True)
    again.open(make_recipe(), {})
    assert list(run.path.rglob("*" + TEMPORARY_SUFFIX)) == []
    assert (run.round_folder(1) / "plan.json").exists()
    again._lock.release()


def test_the_manifest_compares_plain_values(make_recipe):
    keys = recipe_keys(make_recipe())
    assert json.loads(json.dumps(keys)) == keys
    assert keys["stages"][0]["launch"] == {"processes": 1}
    fields = {field.name for field in dataclasses.fields(make_recipe())}
    free = {"source", "run_folder", "text", "keep", "health", "on_divergence", "written_rounds"}
    assert set(keys) == fields - free


def test_a_teacher_may_move_to_another_device_between_the_tries(make_recipe):
    teacher = DistillSpec(teacher="original", weight=0.5, device="cuda:1")
    keys = recipe_keys(make_recipe(distill=teacher))
    assert keys["distill"] == {"teacher": "original", "weight": 0.5, "dtype": None}


def test_an_event_after_a_torn_one_stands_on_a_line_of_its_own(tmp_path):
    run = RunFolder(tmp_path, writes=True)
    (tmp_path / "events.jsonl").write_text('{"event": "opened"}\n{"event": "st')
    run.event("step", step="prune")
    last = (tmp_path / "events.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == "prune"


def test_another_corpus_than_that_of_the_recorded_rounds_is_refused(tmp_path):
    run = RunFolder(tmp_path, writes=True)
    run.require_corpus("first")
    run.require_corpus("second")  # nothing was trained on the first
    run.finish_round(RoundRecord(round=0, num_layers=1, width=1, num_parameters=1))
    run.require_corpus("second")
    with pytest.raises(RunFolderError, match="the corpus is not the one"):
        run.require_corpus("third")


def test_a_word_of_the_recipe_that_is_a_secret_too_makes_it_no_other(
    tmp_path, make_recipe, monkeypatch
):
    monkeypatch.setenv("DB_PASSWORD", "research")
    run = RunFolder(tmp_path / "other", writes=True)
    run.open(make_recipe(model="research/model"), {"recipe_text": "# research"})
    run.close()
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe_text"] == "# [redacted]"
    assert manifest["recipe"]["model"] == "research/model", "what the next try compares"
