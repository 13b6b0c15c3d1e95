"""Stages that only some rounds have."""

from __future__ import annotations

import pytest
import yaml

from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.testing.fake_backend import FakeBackend

CUTS = [{"unit": "neuron", "amount": 8, "rounds": 2}]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return the recipe with a schedule and stages, its manager and its registry."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def read(schedule, *recover):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        registry = build_registry(manager)
        keys = {
            "model": "model",
            "run_dir": "out",
            "data": {"path": "data/tiny.jsonl"},
            "calibration": {"num_sequences": 4, "max_length": 32},
            "schedule": schedule,
            "recover": [{"backend": "fake", **each} for each in recover],
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
        return read_recipe(tmp_path / "r.yaml", manager.hook, registry), manager, registry

    return read


def test_each_round_runs_its_own_stages_and_the_last_of_them_is_the_rounds_model(read, tmp_path):
    schedule = [*CUTS, {"unit": "none", "rounds": 1}]
    run_recipe(*read(schedule, {"rounds": [1, 1]}, {"rounds": [1, 3]}))
    logs = (tmp_path / "out").glob("*/*/train.log")
    ran = sorted(str(log.parent.relative_to(tmp_path / "out")) for log in logs)
    assert ran == ["round_01/stage_0", "round_01/stage_1", "round_02/stage_0", "round_03/stage_0"]
    for number in (1, 2, 3):
        assert (tmp_path / f"out/round_0{number}/model/model.safetensors").is_file()


def test_a_round_that_only_cuts_ends_with_the_pruned_model(read, tmp_path):
    run_recipe(*read(CUTS, {"rounds": [2, 2]}))
    assert (tmp_path / "out/round_01/model/model.safetensors").is_file()
    assert not list(tmp_path.glob("out/round_01/stage_*"))
    assert (tmp_path / "out/round_02/stage_0").is_dir()


@pytest.mark.parametrize(
    ("rounds", "line"),
    [
        ([2, 1], "recover.0.rounds: [2, 1] is no first and last of the schedule's 3 rounds"),
        ([1, 4], "recover.0.rounds: [1, 4] is no first and last of the schedule's 3 rounds"),
        ([1], "recover.0.rounds: [1] "),
        ([0, 2], "recover.0.rounds.0: 0 "),
        ([1, 2], "schedule: round 3 cuts nothing and has no stage in 'recover'"),
    ],
)
def test_rounds_that_there_are_not_or_that_do_nothing_are_refused(read, rounds, line):
    with pytest.raises(RecipeError) as error:
        read([*CUTS, {"unit": "none", "rounds": 1}], {"rounds": rounds})
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stage_whose_data_cannot_be_read_is_refused_before_anything_is_written(
    read, tmp_path, monkeypatch
):
    def unreadable(self, ctx, stage, model, folder):
        raise PTLError(f"problems of round {ctx.spec.index}: no such file")

    recipe, *rest = read(CUTS, {"rounds": [2, 2]})
    monkeypatch.setattr(FakeBackend, "job", unreadable)
    with pytest.raises(RecipeError, match=r"recover\.0: problems of round 2: no such file"):
        run_recipe(recipe, *rest)
    assert not (tmp_path / "out").exists()
