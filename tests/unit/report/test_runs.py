"""Run folders are read as far as they are; what is none, or damaged, is one line."""

from __future__ import annotations

import json
import shutil

import pytest

from ptl_plugins.errors import RunFolderError
from ptl_plugins.run_folder import read_record


def change(path, **keys):
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}), encoding="utf-8")


def test_a_finished_run_is_read_whole(write_run, read, steps_right):
    folder = write_run(metrics=lambda index: steps_right(20))
    (run,) = read(folder)
    assert (run.name, run.label, run.is_finished, run.num_tasks) == ("run", "run", True, 1)
    assert run.records == tuple(read_record(p) for p in sorted(folder.glob("*/record.json")))
    assert [record.round for record in run.rounds] == [1, 2, 3]
    assert (run.original.round, run.last.round) == (0, 3)


def test_an_unfinished_run_tells_how_far_it_is(write_run, read):
    (run,) = read(write_run(done=1))
    assert not run.is_finished
    assert (run.progress, run.label) == ("1 of 3 rounds", "run (1 of 3 rounds)")


def test_a_run_without_any_record_is_a_run(write_run, read):
    folder = write_run(done=0)
    shutil.rmtree(folder / "round_00")
    (run,) = read(folder)
    assert (run.records, run.original, run.last) == ((), None, None)
    assert run.no_flops == "the original is not recorded"


def test_a_key_that_a_later_version_adds_is_passed_over(write_run, read):
    folder = write_run()
    change(folder / "round_01" / "record.json", temperature=3)
    change(folder / "manifest.json", weather="fine")
    (run,) = read(folder)
    assert run.manifest["weather"] == "fine"


def test_runs_of_one_name_are_told_apart_by_their_parents(write_run, read, tmp_path):
    one, two = write_run("a/run"), write_run("b/run")
    assert [run.name for run in read(one, two)] == ["a/run", "b/run"]


def test_flops_follow_from_the_recorded_shapes(write_run, read, sizes):
    (run,) = read(write_run())
    smaller = sizes.after(width=32, num_layers=4)
    assert run.flops[0] == 1.0
    assert run.flops[3] == smaller.flops_per_token / sizes.flops_per_token
    assert run.no_flops is None


def test_flops_of_a_sliced_round_follow_from_its_recorded_hidden_size(
    write_run, read, cuts, sizes, monkeypatch
):
    def refuse(*args):
        raise AssertionError("the hidden size is on record")

    monkeypatch.setattr("ptl_plugins.report.flops._hidden_by_parameters", refuse)
    (run,) = read(write_run(cuts=(cuts.neurons, cuts.hidden, None)))
    last = sizes.after(width=40, num_layers=5).sliced(24)
    assert run.no_flops is None
    assert run.flops[2] == run.flops[3] == last.flops_per_token / sizes.flops_per_token


def test_records_of_versions_that_noted_no_hidden_size_tell_the_same_flops(write_run, read, cuts):
    folder = write_run(cuts=(cuts.neurons, cuts.hidden, None))
    (before,) = read(folder)
    for path in folder.glob("*/record.json"):
        keys = json.loads(path.read_text())
        assert keys.pop("hidden") in (32, 24)
        path.write_text(json.dumps(keys), encoding="utf-8")
    (after,) = read(folder)
    assert [record.hidden for record in after.records] == [None] * 4
    assert after.flops == before.flops


def test_a_hidden_size_that_does_not_fit_the_parameters_tells_no_flops(write_run, read, cuts):
    folder = write_run(cuts=(cuts.hidden,))
    change(folder / "round_01" / "record.json", hidden=25)
    (run,) = read(folder)
    assert run.flops == {}
    assert "in the shape of round 1, but" in run.no_flops


def test_a_checkpoint_of_the_run_serves_where_the_original_has_gone(write_run, read, model):
    folder = write_run()
    config = json.loads((model / "config.json").read_text())
    pruned = {**config, "intermediate_size": 40}
    (before,) = read(folder)
    (folder / "round_01" / "model").mkdir()
    (folder / "round_01" / "model" / "config.json").write_text(json.dumps(pruned))
    shutil.rmtree(model)
    (after,) = read(folder)
    assert after.flops == before.flops


@pytest.mark.parametrize("model", ["/not/there", "not-there/at all", "nobody/has-this"])
def test_without_a_config_flops_are_missing_and_nothing_is_downloaded(
    write_run, read, monkeypatch, model
):
    def refuse(*args, **kwargs):
        raise AssertionError("a report does not download")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    (run,) = read(write_run(model=model))
    assert run.flops == {}
    assert f"model '{model}'" in run.no_flops


def test_the_config_of_another_model_tells_no_flops(write_run, read, model):
    folder = write_run()
    change(model / "config.json", hidden_size=64)
    (run,) = read(folder)
    assert run.flops == {}
    assert "it is another model" in run.no_flops


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder; give a run folder"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no run folder (it has no man"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: is damaged ("),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: is damaged ("),
        (
            lambda folder: change(folder / "manifest.json", recipe={"model": "m"}),
            "manifest.json: is damaged (recipe.",
        ),
        (
            lambda folder: (folder / "round_01" / "record.json").write_text(""),
            "round_01/record.json: is damaged (Invalid JSON",
        ),
        (
            lambda folder: (folder / "round_01" / "record.json").write_bytes(b"\xff\x00"),
            "round_01/record.json: is damaged (",
        ),
        (
            lambda folder: change(folder / "round_01" / "record.json", seconds={"prune": "long"}),
            "round_01/record.json: is damaged (seconds.prune: ",
        ),
        (
            lambda folder: change(folder / "round_01" / "record.json", round=2),
            "round_01/record.json: is damaged (round: 2, but the folder is of round 1)",
        ),
        (
            lambda folder: change(folder / "round_00" / "record.json", num_parameters=0),
            "round_00/record.json: is damaged (num_parameters: 0 is not above 0)",
        ),
        (
            lambda folder: change(folder / "round_01" / "record.json", hidden=0),
            "round_01/record.json: is damaged (hidden: 0 is not above 0)",
        ),
    ],
)
def test_what_is_no_run_or_damaged_is_one_line_with_the_path(write_run, read, prepare, told):
    folder = write_run()
    prepare(folder)
    with pytest.raises(RunFolderError) as raised:
        read(folder)
    assert str(raised.value).startswith(str(folder))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_is_no_run(tmp_path, read):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file: is a file; give a run folder"):
        read(tmp_path / "file")


def test_the_same_run_twice_is_refused(write_run, read):
    folder = write_run()
    with pytest.raises(RunFolderError, match="is given twice"):
        read(folder, folder / ".." / folder.name)
