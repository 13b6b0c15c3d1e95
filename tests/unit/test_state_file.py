"""State that a disk tore is one line that says what to do, or is made again."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import RunFolderError
from ptl_plugins.provenance import FILE, read_latest
from ptl_plugins.run_folder import MANIFEST, PLAN, RECORD, RunFolder, read_plan, read_record
from ptl_plugins.state_file import intact, read_state

TORN = ["", '{"pid": 1', "[]", "null", "\x00\x00"]


@pytest.mark.parametrize("text", TORN)
def test_a_torn_file_is_one_line_with_its_name_and_what_to_do(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        RunFolderError, match=r"record.json: is damaged \(.+\); delete it$"
    ) as raised:
        read_state(path, "delete it")
    assert "\n" not in str(raised.value)


def test_what_is_missing_in_it_is_named(tmp_path):
    told = r"is damaged \('recipe' is missing\); delete it"
    with pytest.raises(RunFolderError, match=told), intact(tmp_path / "x", "delete it"):
        {}["recipe"]


@pytest.mark.parametrize("text", [*TORN, "{}", '{"removed_neurons": 3}'])
def test_a_torn_plan_is_made_again(tmp_path, text, caplog):
    (tmp_path / PLAN).write_text(text, encoding="utf-8")
    assert read_plan(tmp_path) is None
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("text", [*TORN, "{}", '{"cuts": 1}'])
def test_a_torn_record_says_what_to_do(tmp_path, text):
    (tmp_path / RECORD).write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match="its round is then recorded again"):
        read_record(tmp_path / RECORD)


@pytest.mark.parametrize("text", [*TORN, "{}"])
def test_a_torn_provenance_is_one_line(tmp_path, text):
    (tmp_path / "round_01").mkdir()
    (tmp_path / "round_01" / FILE).write_text(text, encoding="utf-8")
    run = RunFolder(tmp_path, writes=False)
    with pytest.raises(RunFolderError, match=r"round_01/ptl_pruning.json: is damaged"):
        read_latest(run, 1, {"num_layers": 1, "width": 1})


def test_a_manifest_that_was_deleted_is_written_again(tmp_path, make_recipe):
    recipe = make_recipe()
    run = RunFolder(tmp_path / "run", writes=True)
    run.open(recipe, {})
    run.close()
    (run.path / "round_00").mkdir()
    (run.path / "round_00" / RECORD).write_text(
        '{"round": 0, "num_layers": 1, "width": 1, "num_parameters": 1, "cuts": [], "pruned": null,'
        ' "recovered": null, "plan_digest": null, "model_digest": null, "seconds": {}}'
    )
    (run.path / MANIFEST).write_text('{"recipe": ')
    with pytest.raises(RunFolderError, match=r"manifest.json: is damaged \(.*\); delete it, and"):
        run.check(recipe)
    (run.path / MANIFEST).unlink()
    run.open(recipe, {})
    run.close()
    run.check(recipe)
    assert (run.path / MANIFEST).exists()


def test_what_is_damaged_and_not_needed_is_told_and_the_run_goes_on(tmp_path, make_recipe, caplog):
    run = RunFolder(tmp_path / "run", writes=True)
    for name in ("round_00/plan.json", "round_01/scores.safetensors", "round_01/plan.json"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("{", encoding="utf-8")
    run.open(make_recipe(), {})
    run.close()
    assert "round_00/plan.json: is damaged; the run goes on without it" in caplog.text
    assert "round_01" not in caplog.text, "what the next step reads is for it to tell"
    (run.path / "round_01" / "plan.json").write_text("{}", encoding="utf-8")
    run.open(make_recipe(), {})
    run.close()
    assert "round_01/scores.safetensors: is damaged" in caplog.text
