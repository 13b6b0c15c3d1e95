"""A study runs what is left, keeps few weights, and tells what failed; programs are stood in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ptl_plugins.errors import PTLError
from ptl_plugins.run_lock import lock_folder
from ptl_plugins.stage_types import CommandResult
from ptl_plugins.study import checking, execution
from ptl_plugins.study.run_state import read_state
from ptl_plugins.study.study_run import StudyRequest, preview, run_study
from ptl_plugins.testing import write_tiny_corpus

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
A = {"recipe": "a.yaml"}
PUPIL = {"recipe": "a.yaml", "set": {"protect": {"data": "{a}/texts.jsonl", "top": 1}}}


@pytest.fixture
def programs(monkeypatch):
    """Stand in for the programs: note what is started; `fails` are names of runs that fail."""

    class Programs(list):
        fails = frozenset()

        def __call__(self, command, note):
            recipe = Path(command.words[-1])
            name = recipe.parent.parent.name
            self.append(name)
            command.log.write_text("said a word\nptl: it is wrong\n")
            if name in self.fails:
                return CommandResult(exit_code=2, seconds=1.0)
            run = Path(yaml.safe_load(recipe.read_text())["run_dir"])
            for folder in (run / "round_01" / "model", run / "round_02" / "model"):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "config.json").write_text("{}")
                (folder / "model.safetensors").write_bytes(b"weights")
                (folder / "texts.jsonl").write_text('{"text": "a"}\n')
            return CommandResult(exit_code=0, seconds=1.0)

    found = Programs()
    monkeypatch.setattr(execution, "run_command", found)
    return found


@pytest.fixture
def request_of(desk_of, tmp_path, monkeypatch):
    """A request for a study of these runs, whose recipe `a.yaml` cuts two rounds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_tiny_corpus(tmp_path / "data", num_documents=4)
    (tmp_path / "model" / "texts.jsonl").write_text('{"text": "a"}\n')
    recipe = {
        "model": "model",
        "data": {"path": "data/tiny.jsonl"},
        "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def make(runs, *, words=(), keep="last", **keys):
        desk = desk_of(runs=runs, words=words, keep=keep)
        return StudyRequest(desk=desk, folder=tmp_path / "F", **keys)

    return make


def run(request):
    lines = []
    return run_study(request, lines.append), lines


def weights(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors"))


def test_every_job_gets_its_merged_recipe_and_its_command(request_of, programs, tmp_path):
    outcome, lines = run(request_of({"a": {**A, "seeds": [1, 2], "set": {"refit": "none"}}}))
    assert (programs, outcome.failed) == (["a", "a"], {})
    keys = yaml.safe_load((tmp_path / "F/a/seed_2/recipe.yaml").read_text())
    assert (keys["seed"], keys["refit"]) == (2, "none")
    assert lines[0] == "[1/2] a, seed 1: 2 rounds, the time left is not known yet"
    assert lines[-1].startswith("[2/2] a, seed 2: finished in ")


def test_a_finished_run_is_skipped_and_a_failed_one_tried_again(request_of, programs, tmp_path):
    request = request_of({"a": A, "b": A})
    programs.fails = {"b"}
    outcome, _ = run(request)
    assert list(outcome.failed.values()) == ["b, seed 1: failed: it is wrong"]
    programs.fails = set()
    outcome, lines = run(request)
    assert programs == ["a", "b", "b"]
    assert lines[0] == "[1/2] a, seed 1: is finished"
    state = read_state(tmp_path / "F/b/seed_1")
    assert (state.status, state.tries, state.reason) == ("finished", 2, None)


def test_a_failure_stops_only_what_needs_it(request_of, programs):
    programs.fails = {"a"}
    outcome, _ = run(request_of({"pupil": PUPIL, "a": A, "c": A}))
    assert programs == ["a", "c"]
    assert list(outcome.failed.values()) == [
        "a, seed 1: failed: it is wrong",
        "pupil, seed 1: was not started: it needs a, seed 1",
    ]


def test_another_exit_code_is_told_with_the_last_line(request_of, programs, monkeypatch):
    def crash(command, note):
        command.log.write_text("Traceback\nMemoryError\n\n")
        return CommandResult(exit_code=-9, seconds=1.0)

    monkeypatch.setattr(execution, "run_command", crash)
    outcome, _ = run(request_of({"a": A}))
    (said,) = outcome.failed.values()
    assert said.startswith("a, seed 1: failed: it ended with code -9: MemoryError; see ")


def test_a_program_that_leaves_no_model_has_failed(request_of, programs, monkeypatch):
    monkeypatch.setattr(
        execution, "run_command", lambda command, note: CommandResult(exit_code=0, seconds=1.0)
    )
    outcome, _ = run(request_of({"a": A}))
    assert "it ended without a model" in next(iter(outcome.failed.values()))


def test_only_the_last_model_of_a_finished_run_stays(request_of, programs, tmp_path):
    run(request_of({"a": A}))
    assert weights(tmp_path / "F") == ["a/seed_1/run/round_02/model/model.safetensors"]


def test_no_model_stays_once_nobody_needs_it(request_of, programs, tmp_path):
    programs.fails = {"pupil"}
    request = request_of({"a": A, "pupil": PUPIL}, keep="none")
    run(request)
    assert weights(tmp_path / "F") == ["a/seed_1/run/round_02/model/model.safetensors"]
    teacher = tmp_path / "F/a/seed_1/run/round_02/model"
    keys = yaml.safe_load((tmp_path / "F/pupil/seed_1/recipe.yaml").read_text())
    assert keys["protect"]["data"] == f"{teacher}/texts.jsonl"
    programs.fails = set()
    run(request)
    assert weights(tmp_path / "F") == []
    assert run(request)[0].failed == {}  # and what is finished stays so


def test_all_models_stay_where_that_is_asked(request_of, programs, tmp_path):
    run(request_of({"a": A}, keep="none", keeps_models=True))
    assert len(weights(tmp_path / "F")) == 2


def test_a_model_that_was_deleted_is_asked_for_in_one_line(request_of, programs):
    run(request_of({"a": A}, keep="none"))
    with pytest.raises(PTLError, match=r"the model of a, seed 1 was deleted, and pupil, seed 1"):
        run(request_of({"a": A, "pupil": PUPIL}, keep="none"))
    assert programs == ["a"]


def test_after_the_budget_no_run_starts(request_of, programs):
    outcome, _ = run(request_of({"a": A, "b": A}, budget=0.0))
    assert (programs, outcome.not_started, outcome.failed) == ([], 2, {})


def test_only_the_named_runs_start(request_of, programs):
    run(request_of({"a": A, "b": A, "pupil": PUPIL}, only=("pupil",)))
    assert programs == ["a", "pupil"]


def test_a_mistake_in_any_recipe_starts_and_writes_nothing(request_of, programs, tmp_path):
    runs = {"a": A, "b": {**A, "seeds": [1, 2], "set": {"refit": "ridgy"}}}
    with pytest.raises(PTLError) as raised:
        run(request_of(runs))
    (line,) = str(raised.value).splitlines()  # once, not for each seed
    assert line.startswith(f"{tmp_path / 'study.yaml'}: runs.b: {tmp_path / 'a.yaml'}: refit: 'ri")
    assert programs == []
    assert not (tmp_path / "F").exists()


def test_a_mistake_that_runs_share_is_told_once(request_of, programs):
    wrong = {**A, "set": {"refit": "ridgy"}}
    with pytest.raises(PTLError, match=r"^\S+study.yaml: runs\.a and 2 more: ") as raised:
        run(request_of({"a": wrong, "b": wrong, "c": wrong}))
    assert len(str(raised.value).splitlines()) == 1


def test_a_cut_that_the_model_cannot_bear_is_found_before_the_first_run(request_of, programs):
    with pytest.raises(PTLError, match=r"runs\.b: .*schedule"):
        run(request_of({"a": A, "b": {**A, "set": {"schedule.0.amount": 48}}}))
    assert programs == []


def test_a_framework_has_to_be_there_for_a_run_and_not_for_a_preview(
    request_of, programs, monkeypatch
):
    asked = []

    def check(recipe, registry, *, starts_here):
        asked.append(starts_here)
        return ("not checked",)

    monkeypatch.setattr(checking, "check_stages", check)
    preview(request_of({"a": A}), asked.append)
    assert asked[0] is False
    asked.clear()
    _, lines = run(request_of({"a": A}))
    assert asked == [True]
    assert lines[0] == "not checked"


def test_a_finished_run_of_another_recipe_is_refused_with_the_keys(request_of, programs):
    run(request_of({"a": A}))
    keep = {**A, "set": {"keep": {"rounds": "last"}}}  # decides no weight
    assert run(request_of({"a": keep}))[0].failed == {}
    with pytest.raises(PTLError, match=r"another recipe \(refit: None -> 'none'\)"):
        run(request_of({"a": A}, words=("refit=none",)))


def test_a_finished_run_that_read_other_files_is_refused_with_them(request_of, programs, tmp_path):
    run(request_of({"a": A}))
    assert run(request_of({"a": A}))[0].failed == {}
    corpus = tmp_path / "data" / "tiny.jsonl"
    corpus.write_text(corpus.read_text() + '{"text": "one more"}\n')
    with pytest.raises(PTLError, match=r"other files \(data/tiny.jsonl changed since\)"):
        run(request_of({"a": A}))
    assert programs == ["a"]


def test_two_studies_do_not_work_in_one_folder(request_of, programs, tmp_path):
    (tmp_path / "F").mkdir()
    lock = lock_folder(tmp_path / "F")
    with pytest.raises(PTLError, match="another run works in this folder"):
        run(request_of({"a": A}))
    lock.release()


def test_the_preview_writes_nothing(request_of, programs, tmp_path):
    lines = []
    preview(request_of({"a": A}), lines.append)
    assert lines[0].startswith("[1/1] a, seed 1: 2 rounds: ")
    assert lines[0].endswith(f"ptl_plugins run {tmp_path}/F/a/seed_1/recipe.yaml")
    assert not (tmp_path / "F").exists()
    assert programs == []


def test_programs_get_the_plugins_of_the_command_line(request_of, programs, monkeypatch):
    monkeypatch.setenv("PTL_PLUGINS", "mine")
    assert execution._environment(["more"])["PTL_PLUGINS"] == "mine,more"
