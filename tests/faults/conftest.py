"""Runs of `ptl run` in processes of their own, which are killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fault_table
import pytest
import yaml
from after_checks import digests
from doors import DOORS, Place, write_inputs
from fault_table import FaultTable

from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

tried = fault_table.tried

KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 3, "max_length": 32, "batch_tokens": 32},
    "refit": "ridge",
    "schedule": [
        {"unit": "neuron", "amount": 8, "rounds": 1},
        {"unit": "layer", "amount": 1, "rounds": 1},
    ],
    "recover": [{"backend": "fake"}, {"backend": "fake", "settings": {"seconds": 0}}],
    "evaluate": {
        "tasks": [
            {"evaluator": "chain_of_thought", "data": "data/held_out.jsonl", "num_problems": 2}
        ],
        "before_recovery": True,
    },
}
TORCH_FREE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PTL_PLUGINS": ""}


def pytest_addoption(parser):
    fault_table.add_option(parser)


def pytest_configure(config):
    page = config.getoption("--fault-table")
    if page and not hasattr(config, "workerinput"):  # pytest-xdist's workers write nothing
        config.pluginmanager.register(FaultTable(page))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Give one worker of pytest-xdist all tests of a door: its undisturbed run is made once."""
    for item in items:
        key = getattr(getattr(item, "callspec", None), "params", {}).get("key")
        if key and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(key))


class Starter:
    """The program that forks commands; `modules` are what it imports first."""

    def __init__(self, *modules: str) -> None:
        self.program = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("run_starter.py"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **TORCH_FREE},
            text=True,
        )
        assert self.program.stdout.readline() == "ready\n"

    def ask(self, **order):
        self.program.stdin.write(json.dumps(order) + "\n")
        self.program.stdin.flush()
        return int(self.program.stdout.readline())

    def close(self):
        self.program.stdin.close()
        self.program.stdout.close()
        self.program.wait(20)


@pytest.fixture(scope="session")
def starter_of():
    """Return the starter of a door; those that import the same are one."""
    starters = {}

    def find(*modules):
        if modules not in starters:
            starters[modules] = Starter(*modules)
        return starters[modules]

    yield find
    for starter in starters.values():
        starter.close()


@pytest.fixture(scope="session")
def starter(starter_of):
    return starter_of("run")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A tiny model and its corpus, which runs only read."""
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_checkpoint(folder / "model", num_hidden_layers=3)
    write_tiny_corpus(folder / "data", num_documents=6)
    return folder


class Workplace:
    """A folder with a recipe, and the runs of it."""

    def __init__(self, starter, inputs: Path, folder: Path) -> None:
        self.starter, self.folder = starter, folder
        self.out = folder / "out"
        for name in ("model", "data"):
            (folder / name).symlink_to(inputs / name)
        self.recipe()

    def recipe(self, **keys):
        text = yaml.safe_dump({**KEYS, **keys})
        (self.folder / "r.yaml").write_text(text, encoding="utf-8")

    def start(self, *words, said="said", kill_at=0):
        """Start the run, return its pid; `kill_at` is the number of a place."""
        environment = {"PTL_TRACE": str(self.folder / f"{said}.trace"), "PTL_KILL_AT": str(kill_at)}
        (self.folder / f"{said}.trace").write_text("", encoding="utf-8")
        plugins = ["-p", "ptl_plugins.testing.fake_backend", "-p", "kill_points"]
        start = ["ptl", "run", "r.yaml", *plugins, *words]
        folder = str(self.folder)
        return self.starter.ask(start=start, folder=folder, environment=environment, said=said)

    def wait(self, pid):
        return self.starter.ask(wait=pid)

    def run(self, *words, **keys):
        return self.wait(self.start(*words, **keys))

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def said(self, said="said"):
        return (self.folder / said).read_text(encoding="utf-8")

    def trace(self, kind, said="said"):
        """Return the places passed (`point`), or the pieces of work done (`work`)."""
        lines = (self.folder / f"{said}.trace").read_text(encoding="utf-8").splitlines()
        return [line.removeprefix(kind + " ") for line in lines if line.startswith(kind + " ")]

    def clear(self):
        shutil.rmtree(self.out, ignore_errors=True)


@pytest.fixture
def workplace(starter, inputs, tmp_path):
    return Workplace(starter, inputs, tmp_path)


@pytest.fixture(scope="session")
def workplace_type():
    return Workplace


@pytest.fixture(scope="session")
def wait_for():
    """Call something until what it returns is true, and return that."""

    def wait(condition):
        for _ in range(400):
            if result := condition():
                return result
            time.sleep(0.02)
        raise AssertionError("it did not happen in 8 s")

    return wait


@pytest.fixture(scope="session")
def door_inputs(tmp_path_factory):
    """Models, data, and a profile for `ptl prune`, which commands only read."""
    return write_inputs(tmp_path_factory.mktemp("door_inputs"))


@pytest.fixture(scope="session")
def undisturbed_door(starter_of, door_inputs, tmp_path_factory):
    """Return what a door's command does and leaves when nothing disturbs it."""
    known = {}

    def find(key):
        if key not in known:
            if key == "prune" and not (door_inputs / "profiled").exists():
                profiled = find("profile").place.out
                (door_inputs / "profiled").symlink_to(profiled)
            door = DOORS[key]
            folder = tmp_path_factory.mktemp(key)
            place = Place(starter_of(*door.modules), door_inputs, folder, door)
            start = time.monotonic()
            assert place.run() == 0, place.said()[-3000:]
            seconds = time.monotonic() - start
            known[key] = Undisturbed(place, place.operations(), digests(place.out), seconds)
        return known[key]

    return find


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing disturbed."""

    place: Place
    operations: list[str]
    digests: dict[str, str]
    seconds: float


@pytest.fixture
def place_of(starter_of, door_inputs, undisturbed_door, tmp_path):
    """Return a new place for a door's command, and what it does undisturbed."""

    def make(key, name="place"):
        undisturbed, door = undisturbed_door(key), DOORS[key]
        place = Place(starter_of(*door.modules), door_inputs, tmp_path / name, door)
        return place, undisturbed

    return make
