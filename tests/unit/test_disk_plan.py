"""The planned disk of a run: held against what a run really takes, and against what is free."""

from __future__ import annotations

import collections
import json
import shutil

import pytest
import yaml

from llamafactory_ext.recipe import read_llamafactory_recipe
from ptl_plugins import checkpoint_steps, disk_plan
from ptl_plugins.disk_check import require_space
from ptl_plugins.disk_plan import plan_disk
from ptl_plugins.disk_sizes import num_saved, show_bytes, size_of
from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

SHAPE = {"hidden_size": 64, "intermediate_size": 512}
SCHEDULE = [
    {"unit": "neuron", "amount": 96, "rounds": 2},
    {"unit": "layer", "amount": 1},
]
FAKE = {"backend": "fake"}
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def fakes():
    """The built-in plugins and the backend that fakes."""
    manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
    return manager, build_registry(manager)


@pytest.fixture
def read(tmp_path, monkeypatch, fakes):
    """Return a recipe of `ptl run`; keys override it. Its model takes 1.1 MB."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model", **SHAPE)
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def recipe(**keys):
        base = {
            "model": "model",
            "run_dir": "out",
            "data": {"path": "data/tiny.jsonl"},
            "calibration": {"num_sequences": 4, "max_length": 32},
            "schedule": SCHEDULE,
            "recover": [FAKE],
        }
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump({**base, **keys}), encoding="utf-8")
        manager, registry = fakes
        return read_recipe(path, manager.hook, registry)

    return recipe


@pytest.fixture
def inside(tmp_path, registry):
    """Return the plan of a recipe of LLaMA-Factory's own door; keys override it."""
    write_tiny_checkpoint(tmp_path / "model", **SHAPE)
    write_tiny_corpus(tmp_path / "data", num_documents=3)

    def plan(**keys):
        facts = {
            "model_name_or_path": str(tmp_path / "model"),
            "stage": "pt",
            "do_train": True,
            "finetuning_type": "full",
            "dataset_dir": str(tmp_path / "data"),
            "dataset": "tiny",
            "output_dir": str(tmp_path / "out"),
            "ptl": {"schedule": SCHEDULE},
        }
        source = RecipeSource(
            path=tmp_path / "r.yaml", keys={**facts, **keys}, text="", registry=registry
        )
        return plan_run(read_llamafactory_recipe(source), registry)

    return plan


class Watch:
    """Measures a run folder where it can only be at its largest: before something is deleted."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.highest, self.peaks, self.after = folder, 0, [], []
        delete, tidy = shutil.rmtree, checkpoint_steps.tidy_round

        def measured(*args, **kwargs):
            self.look()
            delete(*args, **kwargs)

        def tidied(ctx):
            self.look()
            tidy(ctx)
            if ctx.spec.index > 0:
                self.peaks.append(self.highest)
                self.after.append(size_of(folder))
            self.highest = 0

        monkeypatch.setattr(shutil, "rmtree", measured)
        monkeypatch.setattr(checkpoint_steps, "tidy_round", tidied)

    def look(self):
        self.highest = max(self.highest, size_of(self.folder))


@pytest.mark.parametrize("stages", [0, 1, 2])
@pytest.mark.parametrize(
    "keep", [{}, {"rounds": "last"}, {"intermediate": True}], ids=["all", "last", "intermediate"]
)
def test_the_plan_is_above_what_a_run_takes_but_not_far_above(
    read, fakes, tmp_path, monkeypatch, stages, keep
):
    monkeypatch.setattr(disk_plan, "NOTES_BYTES", 20_000)  # a tiny run's logs are tiny
    manager, registry = fakes
    recipe = read(recover=[FAKE] * stages, keep=keep)
    planned = plan_disk(plan_run(recipe, registry)).rounds
    watch = Watch(tmp_path / "out", monkeypatch)
    run_recipe(recipe, manager, registry)
    assert len(watch.peaks) == len(planned) == 3
    for each, peak, after in zip(planned, watch.peaks, watch.after, strict=True):
        assert peak <= each.peak <= 1.2 * peak
        assert after <= each.after <= 1.5 * after


def test_a_deeper_cut_and_less_that_is_kept_need_less_disk(read, fakes):
    def after(**keys):
        return plan_disk(plan_run(read(**keys), fakes[1])).rounds[-1].after

    kept = after()
    assert after(keep={"rounds": "last"}) < kept < after(keep={"intermediate": True})
    assert after(schedule=[{"unit": "neuron", "amount": 160, "rounds": 3}]) < kept


def test_second_moments_are_planned_for_the_time_of_the_cut_alone(read, fakes):
    """At this width they are larger than the models: 5 layers x 512^2 x 4 bytes."""
    ridge, none = (plan_disk(plan_run(read(refit=r), fakes[1])) for r in ("ridge", "none"))
    assert ridge.rounds[0].peak - none.rounds[0].peak > 0
    assert ridge.rounds[0].peak > 5 * 512**2 * 4
    assert [r.after for r in ridge.rounds] == [r.after for r in none.rounds]
    assert ridge.rounds[2].peak == none.rounds[2].peak, "no neuron goes in round 3"


def test_a_threshold_is_planned_with_the_last_known_shape(read, fakes):
    phase = {
        "unit": "neuron",
        "selector": "threshold",
        "amount": 0.1,
        "criterion": "activation_max",
    }
    plan = plan_run(read(schedule=[phase]), fakes[1])
    least = plan_run(read(schedule=[{"unit": "neuron", "amount": 1}]), fakes[1])
    assert plan.rounds[0].geometry is None
    assert plan_disk(plan).rounds[0].after > plan_disk(least).rounds[0].after


def test_a_model_that_is_not_here_is_planned_by_its_configs_dtype(read, fakes, tmp_path):
    real = plan_disk(plan_run(read(), fakes[1])).rounds[-1].after
    (tmp_path / "model" / "model.safetensors").unlink()
    sizes = []
    for dtype in ("bfloat16", "float32"):
        config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
        sizes.append(plan_disk(plan_run(read(), fakes[1])).rounds[-1].after)
    assert sizes[1] > sizes[0] > real, "and leaves room for a tokenizer"


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 0),
        ({"save_steps": 10}, 0),  # the default that PTL gives counts
        ({"save_strategy": False}, 0),
        ({"save_strategy": "epoch"}, 3),
        ({"save_strategy": "epoch", "num_train_epochs": 4.5}, 5),
        ({"save_strategy": "epoch", "max_steps": 100}, None),
        ({"save_strategy": "steps", "max_steps": 100, "save_steps": 30}, 4),
        ({"save_strategy": "steps", "save_steps": 0.25}, 4),
        ({"save_strategy": "steps", "save_steps": 30}, None),
        ({"save_strategy": "steps", "save_steps": 30, "save_total_limit": 2}, 3),
        ({"save_strategy": "epoch", "num_train_epochs": 1, "save_total_limit": 2}, 1),
    ],
)
def test_the_checkpoints_of_a_stage_are_counted_where_its_settings_tell(settings, number):
    assert num_saved(settings, "no") == number


def test_checkpoints_that_cannot_be_counted_are_one_and_the_line_says_so(inside):
    none, one, weights = (
        plan_disk(inside(**keys))
        for keys in ({}, {"save_steps": 10}, {"save_steps": 10, "save_only_model": True})
    )
    parameters = inside().rounds[0].geometry.num_parameters
    more = one.rounds[0].after - none.rounds[0].after
    assert more == pytest.approx(12 * parameters, rel=0.05), "fp32 weights and two fp32 states"
    assert one.rounds[0].after - weights.rounds[0].after == 8 * parameters
    assert str(one).endswith(f"each further one takes {show_bytes(one.further)}")
    assert "further" not in str(none)


def test_inside_llamafactory_every_round_keeps_its_model_and_the_last_is_copied(inside):
    planned = plan_disk(inside()).rounds
    models = [planned[0].after, planned[1].after - planned[0].after]
    assert models[1] < models[0], "it is smaller"
    last = planned[2].after - planned[1].after
    assert last == planned[2].peak - planned[1].after
    assert 1.3 * models[1] < last < 1.7 * models[1], "twice a model of a layer less"


def free(monkeypatch, number):
    """Let the disk have `number` free bytes; return the paths that were asked for."""
    asked = []

    def usage(path):
        asked.append(path)
        return Usage(10**12, 0, number)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(
    read, fakes, monkeypatch, tmp_path
):
    recipe = read()
    highest = plan_disk(plan_run(recipe, fakes[1])).highest
    asked = free(monkeypatch, highest.peak - 1)
    with pytest.raises(RecipeError) as raised:
        run_recipe(recipe, *fakes)
    message = str(raised.value)
    assert "\n" not in message
    for part in (
        f"{tmp_path / 'r.yaml'}: run_dir: 'out': the run needs up to {show_bytes(highest.peak)}",
        f"(in round {highest.index}), {show_bytes(highest.peak - 1)} are free",
        "give another run_dir, or set keep: {rounds: last}",
    ):
        assert part in message
    assert asked == [tmp_path], "the folder is not there yet: its parent's disk counts"
    assert not (tmp_path / "out").exists()


def test_a_run_that_just_fits_is_not_refused(read, fakes, monkeypatch):
    plan = plan_run(read(), fakes[1])
    free(monkeypatch, plan_disk(plan).highest.peak)
    require_space(plan, RunFolder(plan.recipe.run_folder, writes=False))


def test_keep_is_no_remedy_where_it_keeps_the_least_already(read, fakes, monkeypatch):
    plan = plan_run(read(keep={"rounds": "last"}), fakes[1])
    free(monkeypatch, 0)
    with pytest.raises(RecipeError, match=r"give another run_dir$"):
        require_space(plan, RunFolder(plan.recipe.run_folder, writes=False))


def test_what_is_there_already_needs_no_room(read, fakes, monkeypatch, tmp_path):
    """Two of three rounds are finished; the third left 300 kB in its folder."""
    recipe = read()
    run_recipe(recipe, *fakes)
    plan, run = plan_run(recipe, fakes[1]), RunFolder(tmp_path / "out", writes=False)
    shutil.rmtree(run.round_folder(3))
    rounds = plan_disk(plan).rounds
    needed = rounds[2].peak - rounds[1].after
    free(monkeypatch, needed)
    require_space(plan, run)
    free(monkeypatch, needed - 300_000)
    with pytest.raises(RecipeError, match="in round 3") as raised:
        require_space(plan, run)
    assert "or set keep: {rounds: last}" in str(raised.value), "a begun run may keep less"
    run.round_folder(3).mkdir()
    (run.round_folder(3) / "scores").write_bytes(bytes(300_000))
    require_space(plan, run)


def test_a_finished_run_needs_no_room_at_all(read, fakes, monkeypatch):
    recipe = read()
    last = run_recipe(recipe, *fakes)
    free(monkeypatch, 0)
    assert run_recipe(recipe, *fakes) == last


def test_the_door_of_llamafactory_asks_for_room_too(inside, tmp_path, monkeypatch):
    from llamafactory_ext import preflight

    text = yaml.safe_dump(dict(inside().recipe.stages[0].settings))
    keys = {**yaml.safe_load(text), "output_dir": str(tmp_path / "new" / "out")}
    keys["ptl"] = {"schedule": SCHEDULE}
    asked = free(monkeypatch, 1000)
    monkeypatch.setenv("RANK", "1")
    preflight.preflight(tmp_path / "r.yaml", keys, text)
    assert asked == [], "the main rank's answer is enough"
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RecipeError, match=r"output_dir: .* more there .*give another output_dir$"):
        preflight.preflight(tmp_path / "r.yaml", keys, text)
    assert not (tmp_path / "new").exists()


def test_bytes_are_shown_as_people_write_them():
    assert [show_bytes(n) for n in (300_000, 99_999_999, 12_345_678_901)] == [
        "0.3 MB", "100.0 MB", "12.3 GB",
    ]  # fmt: skip
