"""Each stage's backend is asked about its settings: who is told what, and when."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import yaml

from ptl_plugins.cli.main import main
from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_check import NotCheckedError, check_stages, check_unfinished
from ptl_plugins.stage_types import LaunchSpec
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.testing.fake_backend import FakeBackend

PLUGIN = "ptl_plugins.testing.fake_backend"
KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8}],
    "recover": [{"backend": "fake"}, {"backend": "fake", "settings": {"seconds": 0}}],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the recipe and all that it names."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(KEYS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def loaded(place):
    manager = build_manager(plugins=[PLUGIN], autoload=False)
    registry = build_registry(manager)
    return read_recipe(place / "r.yaml", manager.hook, registry), manager, registry


@pytest.fixture
def answers(monkeypatch):
    """Let the fake backend's thorough check answer by the stage; return which it was asked."""

    def install(answer):
        asked = []

        def check_thoroughly(self, stage):
            asked.append(stage)
            return answer(stage)

        monkeypatch.setattr(FakeBackend, "check_thoroughly", check_thoroughly)
        return asked

    return install


def two_lines(stage):
    return "settings.a: is wrong\nsettings: do not fit" if stage.settings else None


def absent(stage):
    raise NotCheckedError("the framework is not there")


def test_each_problem_is_a_line_with_file_stage_and_key(loaded, answers):
    recipe, _, registry = loaded
    answers(two_lines)
    with pytest.raises(RecipeError) as raised:
        check_stages(recipe, registry)
    assert str(raised.value).splitlines() == [
        f"{recipe.source}: recover.1.settings.a: is wrong",
        f"{recipe.source}: recover.1.settings: do not fit",
    ]


def test_what_could_not_be_checked_is_told_once(loaded, answers):
    recipe, _, registry = loaded
    asked = answers(absent)
    assert check_stages(recipe, registry) == ("the framework is not there",)
    assert len(asked) == 2


def test_a_run_is_refused_before_anything_is_written(loaded, answers, place):
    recipe, manager, registry = loaded
    answers(two_lines)
    with pytest.raises(RecipeError, match=r"recover\.1\.settings\.a: is wrong"):
        run_recipe(recipe, manager, registry)
    assert not (place / "out").exists()


def test_a_run_that_is_done_asks_no_framework(loaded, answers):
    asked = answers(lambda stage: None)
    run_recipe(*loaded)
    assert len(asked) == 2
    run_recipe(*loaded)
    assert len(asked) == 2


def test_a_run_whose_framework_is_not_on_this_machine_is_refused(loaded, answers, place):
    answers(absent)
    with pytest.raises(RecipeError, match=r"recover\.0\.python: the framework is not there"):
        run_recipe(*loaded)
    assert not (place / "out").exists()


@pytest.mark.parametrize(("launcher", "writes"), [("elsewhere", True), ("local", False)])
def test_what_runs_elsewhere_or_not_at_all_is_told_and_goes_on(
    loaded, answers, caplog, launcher, writes
):
    recipe, _, registry = loaded
    answers(absent)
    launch = LaunchSpec(launcher=launcher)
    stages = tuple(replace(stage, launch=launch) for stage in recipe.stages)
    run = RunFolder(recipe.run_folder, writes=writes)
    check_unfinished(replace(recipe, stages=stages), registry, run)
    assert "r.yaml: the framework is not there" in caplog.text


def validate(monkeypatch, capsys):
    """Run `ptl validate`; return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["ptl", "validate", "r.yaml", "-p", PLUGIN])
    with pytest.raises(SystemExit) as raised:
        main()
    return raised.value.code or 0, *capsys.readouterr()


def test_validate_says_in_its_line_what_was_not_checked(place, answers, monkeypatch, capsys):
    answers(absent)
    expected = (0, "r.yaml: ok, 1 rounds (the framework is not there)\n", "")
    assert validate(monkeypatch, capsys) == expected


def test_validate_refuses_what_the_framework_refuses(place, answers, monkeypatch, capsys):
    answers(two_lines)
    code, out, err = validate(monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("ptl: r.yaml: recover.1.settings.a: is wrong\n")
