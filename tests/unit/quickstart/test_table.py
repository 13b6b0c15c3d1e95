"""The table shows what was measured, and a missing number as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.quickstart.run import OUTLINES, RECIPES, moved
from ptl_plugins.quickstart.table import build_rows, cells, to_markdown
from ptl_plugins.quickstart.training import is_finished
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.shipped_recipes import recipes_folder
from ptl_plugins.types import EvalResult, RoundRecord
from ptl_plugins.yaml_file import read_yaml


def record(index, parameters, loss, pruned=None):
    def result(value):
        return value and EvalResult(metrics={"cot_loss": value, "step_accuracy": 0.5}, seconds=1)

    return RoundRecord(
        round=index,
        num_layers=4,
        width=8,
        num_parameters=parameters,
        recovered=result(loss),
        pruned=result(pruned),
        seconds={"profile": 1.0, "select": 0.5, "prune": 0.5, "recover": 7.0} if index else {},
    )


@pytest.fixture
def rows(tmp_path):
    for name, rounds in (
        ("run", [record(0, 110, 2.0), record(1, 90, 1.5, pruned=3.0), record(2, 60, None)]),
        ("control", [record(0, 110, 2.0), record(1, 110, None), record(2, 110, 1.2)]),
    ):
        (tmp_path / name).mkdir()
        run = RunFolder(tmp_path / name, writes=True)
        for one in rounds:
            run.finish_round(one)
    answers = {"end": {"accuracy": 0.25, "standard_error": 0.04}}
    return build_rows(tmp_path / "run", tmp_path / "control", answers, num_embedding=10)


def test_there_is_a_row_for_each_model(rows):
    assert [row.model for row in rows] == [
        "original",
        "round 1 pruned",
        "round 1 recovered",
        "round 2 pruned",
        "round 2 recovered",
        "control (nothing pruned)",
    ]


def test_non_embedding_parameters_are_those_of_the_original(rows):
    assert [row.non_embedding_kept for row in rows] == [1.0, 0.8, 0.8, 0.5, 0.5, 1.0]


def test_seconds_are_those_of_the_step(rows):
    assert [row.seconds for row in rows] == [0.0, 2.0, 7.0, 2.0, 7.0, 14.0]


def test_losses_stand_where_they_were_measured(rows):
    assert [row.cot_loss for row in rows] == [2.0, 3.0, 1.5, None, None, 1.2]


def test_a_missing_number_is_shown_as_missing(rows):
    assert cells(rows[3])[5:8] == ["-", "-", "-"]
    assert cells(rows[4])[7] == "25.0% +- 4.0%"


def test_markdown_has_a_line_per_row_and_the_facts(rows):
    lines = to_markdown(rows, ["a fact"]).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == len(rows) + 2
    assert lines[-1] == "- a fact"


def test_paths_of_the_recipe_move_with_the_folder():
    keys = {"a": "quickstart/x", "b": [{"c": "quickstart/y"}, 1], "d": "other/quickstart/z"}
    assert moved(keys, Path("/my out")) == {
        "a": "/my out/x",
        "b": [{"c": "/my out/y"}, 1],
        "d": "other/quickstart/z",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_the_outline_of_the_progress_fits_the_recipe(name):
    keys, _ = read_yaml(recipes_folder() / "quickstart" / RECIPES[name])
    rounds = sum(phase["rounds"] for phase in keys["ptl"]["schedule"])
    assert rounds == OUTLINES[name].num_rounds


def test_a_run_without_its_last_weights_is_not_finished(tmp_path):
    RunFolder(tmp_path, writes=True).finish_round(record(1, 1, 1.0))
    (tmp_path / "config.json").write_text("{}")
    assert not is_finished(tmp_path, 1)
    (tmp_path / "model.safetensors").touch()
    assert is_finished(tmp_path, 1)
