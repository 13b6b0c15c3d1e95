"""Backends that can tell from a config that they would refuse a model are asked before a run."""

from __future__ import annotations

import json

import pytest
import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.markers import hookimpl
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.stage_types import ModelChecker
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.testing.fake_backend import FakeBackend

PLUGIN = "ptl_plugins.testing.fake_backend"
KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
}


class PickyBackend(FakeBackend):
    """Tells what it was asked, and finds what its settings say."""

    asked: tuple = ()

    def check_model(self, stage, model):
        type(self).asked += ((stage, model),)
        return stage.settings["does"] if stage.settings else None

    def check(self, stage):
        return None


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan a run of stages, each of which may be found wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PickyBackend, "asked", ())
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")

    def run(*stages, **keys):
        text = yaml.safe_dump({**KEYS, "recover": list(stages), **keys})
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        manager = build_manager(plugins=[PLUGIN], autoload=False)
        manager.register(Picky())
        registry = build_registry(manager)
        return plan_run(read_recipe(tmp_path / "r.yaml", manager.hook, registry), registry)

    return run


class Picky:
    """A plugin with the backend `picky`."""

    @hookimpl
    def ptl_register(self, registry):
        registry.backends.add("picky", PickyBackend())


def picky(found=None, **keys):
    return {"backend": "picky", **({"settings": {"does": found}} if found else {}), **keys}


def test_a_backend_need_not_check_models(plan):
    assert not isinstance(FakeBackend(), ModelChecker)
    assert isinstance(PickyBackend(), ModelChecker)
    plan({"backend": "fake"})


def test_it_gets_the_config_the_folder_and_every_shape(plan, tmp_path):
    plan({"backend": "fake"}, picky())
    ((stage, model),) = PickyBackend.asked
    assert stage.backend == "picky"
    assert model.config == json.loads((tmp_path / "model/config.json").read_text())
    assert (tmp_path / "model").samefile(model.folder)
    assert [shape.width for shape in model.shapes] == [40, 32]


def test_a_stage_of_some_rounds_is_held_against_their_shapes_alone(plan):
    plan({"backend": "fake"}, picky(rounds=[2, 2]), picky())
    assert [[s.width for s in model.shapes] for _, model in PickyBackend.asked] == [[32], [40, 32]]


def test_shapes_that_several_rounds_leave_are_given_once(plan):
    schedule = [{"unit": "neuron", "amount": 8}, {"unit": "none", "rounds": 2}]
    plan(picky(), schedule=schedule)
    ((_, model),) = PickyBackend.asked
    assert [shape.width for shape in model.shapes] == [40]


HIDDEN = {"unit": "hidden", "selector": "fraction", "amount": 0.25}
BY_SCORES = {"unit": "neuron", "selector": "threshold", "amount": 0.1}


@pytest.mark.parametrize("first", [{"unit": "neuron", "amount": 8}, BY_SCORES])
def test_a_stage_is_told_that_its_model_is_sliced_even_where_only_the_scores_tell_shapes(
    plan, first
):
    stages = [picky(rounds=[1, 1]), picky(rounds=[2, 2]), picky(rounds=[3, 3]), picky()]
    plan(*stages, schedule=[first, HIDDEN, {"unit": "none"}])
    assert [model.sliced for _, model in PickyBackend.asked] == [False, True, True, True]


def test_a_stage_is_told_that_the_original_is_sliced(plan, tmp_path):
    sliced = write_tiny_checkpoint(tmp_path / "sliced", "llama")
    config = json.loads((sliced / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "ptl_sliced", "original_hidden_size": 32, "hidden_size": 24}
    (sliced / "config.json").write_text(json.dumps(config), encoding="utf-8")
    plan(picky(), model=str(sliced), family="llama", schedule=[{"unit": "none"}])
    ((_, model),) = PickyBackend.asked
    assert model.sliced


def test_what_several_stages_find_is_told_at_once_with_file_and_place(plan):
    with pytest.raises(RecipeError) as raised:
        plan(picky("settings.a: one\nsettings.b: two"), picky(), picky("settings.a: three"))
    lines = str(raised.value).splitlines()
    assert [line.partition("r.yaml: ")[2] for line in lines] == [
        "recover.0.settings.a: one",
        "recover.0.settings.b: two",
        "recover.2.settings.a: three",
    ]
    assert all("r.yaml: recover." in line for line in lines)


def test_nothing_is_written(plan, tmp_path):
    with pytest.raises(RecipeError):
        plan(picky("settings.a: one"))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "data", "r.yaml"}
