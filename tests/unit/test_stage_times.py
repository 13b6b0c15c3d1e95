"""How long a recovery stage took stands in its round's record, whatever ended the run meanwhile."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from ptl_plugins import hookimpl, stage_run
from ptl_plugins.errors import StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import Command, LaunchSpec, StageJob, StageTime
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

TWO = [{"backend": "fake", "launch": {"processes": 2}}, {"backend": "fake"}]


class Clock:
    """Makes programs take 100, 200, ... seconds."""

    def __init__(self):
        self.programs = 0

    @hookimpl(wrapper=True)
    def ptl_launch(self, command):
        result = yield
        self.programs += 1
        return dataclasses.replace(result, seconds=100.0 * self.programs + 0.00049)


def took(seconds, devices=1):
    return StageTime(backend="fake", wall_seconds=seconds, devices=devices)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(tmp_path, monkeypatch, clock):
    """Run a recipe of one round with the given stages and plugins; return the round's times."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=10)

    def run(*recover, plugins=(), rounds=1):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        for plugin in (clock, *plugins):
            manager.register(plugin)
        registry = build_registry(manager)
        keys = {
            "model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"},
            "calibration": {"num_sequences": 4, "max_length": 32},
            "schedule": [{"unit": "neuron", "amount": 8, "rounds": rounds}],
            "recover": list(recover),
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
        run_recipe(read_recipe(tmp_path / "r.yaml", manager.hook, registry), manager, registry)
        return [record.stages for record in RunFolder(tmp_path / "out", writes=False).records()]

    return run


@pytest.fixture
def dies(monkeypatch):
    """Let a call of a function end the run, the first or a later one; the calls after it go on."""

    def die(owner, name, call):
        function, calls = getattr(owner, name), []

        def counted(*args, **keys):
            calls.append(args)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*args, **keys)

        monkeypatch.setattr(owner, name, counted)

    return die


def test_a_record_has_the_programs_seconds_and_processes_of_every_stage(start):
    original, one = start(*TWO)
    assert (original, one) == ((), (took(100.0, 2), took(200.0)))
    assert [stage.device_seconds for stage in one] == [200.0, 200.0]


def test_a_round_without_a_stage_has_no_times(start):
    stage = {"backend": "fake", "rounds": [2, 2]}
    assert start(stage, rounds=2) == [(), (), (took(100.0),)]


@pytest.mark.parametrize(
    ("owner", "name", "call", "programs"),
    [
        pytest.param(stage_run, "take_recovered", 1, 1, id="first program, not taken"),
        pytest.param(stage_run, "take_recovered", 2, 2, id="first stage done, second not taken"),
        pytest.param(stage_run, "_write_files", 2, 1, id="first stage done, second not begun"),
        pytest.param(RunFolder, "finish_round", 2, 2, id="both done, not recorded"),
    ],
)
def test_what_a_killed_run_had_finished_keeps_its_time(
    start, dies, clock, owner, name, call, programs
):
    dies(owner, name, call)
    with pytest.raises(KeyboardInterrupt):
        start(*TWO)
    assert clock.programs == programs
    assert start(*TWO) == [(), (took(100.0, 2), took(200.0))]
    assert clock.programs == 2


def test_the_time_of_a_try_that_failed_is_not_counted(start, tmp_path):
    cause = tmp_path / "cause"
    cause.touch()
    stage = {"backend": "fake", "settings": {"does": "fail", "while_exists": str(cause)}}
    with pytest.raises(StageError):
        start(stage)
    cause.unlink()
    assert start(stage) == [(), (took(200.0),)]


@pytest.mark.parametrize("name", ["stage_0/done.json", "stage_0/trained/ended.json"])
def test_a_stage_that_an_earlier_version_finished_has_an_unknown_time(
    start, dies, tmp_path, clock, name
):
    owner, call = (RunFolder, 2) if "done" in name else (stage_run, 1)
    dies(owner, "finish_round" if "done" in name else "take_recovered", call)
    with pytest.raises(KeyboardInterrupt):
        start({"backend": "fake"})
    path = tmp_path / "out" / "round_01" / name
    assert json.loads(path.read_text(encoding="utf-8")) == dataclasses.asdict(took(100.0))
    path.write_text('{"backend": "fake"}', encoding="utf-8")
    (_, (stage,)) = start({"backend": "fake"})
    assert stage == took(None, None)
    assert stage.device_seconds is None
    assert clock.programs == 1


def test_a_plugin_that_recovers_by_itself_has_its_own_time_on_unknown_devices(start):
    class Other:
        @hookimpl
        def ptl_recover(self, stage, subject):
            return subject if stage.rounds else None

    one, two = {"backend": "fake", "rounds": [1, 1]}, {"backend": "fake"}
    (_, (other, ours)) = start(one, two, plugins=[Other()])
    assert ours == took(100.0)
    assert (other.backend, other.devices, other.device_seconds) == ("fake", None, None)
    assert 0 <= other.wall_seconds < 100


def test_devices_are_the_processes_of_all_machines(tmp_path):
    command = Command(
        words=("x",), folder=tmp_path, log=tmp_path / "log", launch=LaunchSpec(processes=4)
    )
    job = StageJob(files={}, command=command, result=tmp_path)
    assert job.num_devices == 4
    assert dataclasses.replace(job, num_machines=2).num_devices == 8
