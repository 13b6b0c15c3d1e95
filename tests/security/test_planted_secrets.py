"""Secrets in the environment and in a recipe: in no file of a run, and in nothing that it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from leaky_plugin import ADDRESS, PLANTED

from ptl_plugins.cli.main import main
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

KEYS = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 2, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 1}],
    "recover": [{"backend": "leaky", "settings": {"trust_remote_code": True}}],
}
pytestmark = pytest.mark.timeout(300)
HIDDEN = [*PLANTED.values(), "planted"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_tiny_checkpoint(folder / "model", num_hidden_layers=2)
    write_tiny_corpus(folder / "data", num_documents=6)
    (folder / "r.yaml").write_text(f"# of {ADDRESS}\n{yaml.safe_dump(KEYS)}", encoding="utf-8")
    return folder


@pytest.fixture
def ptl(place, monkeypatch, capfd):
    """Run `ptl` in this process, with the secrets in its environment."""

    def run(*words):
        monkeypatch.chdir(place)
        for name, value in PLANTED.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["ptl", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capfd.readouterr()
        return raised.value.code, out + err

    return run


def found_in(text: str) -> list[str]:
    return [secret for secret in HIDDEN if secret in text]


@pytest.fixture(scope="module")
def done(place):
    """A run in a process of its own, whose logging and output are a command's."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "ptl_plugins", "run", "r.yaml", "-p", "leaky_plugin"],
        cwd=place,
        env={**os.environ, **PLANTED, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_no_file_of_the_run_holds_one(place, done):
    files = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert {"manifest.json", "events.jsonl", "train.log", "leak.json"} <= {f.name for f in files}
    for path in files:
        assert not found_in(path.read_bytes().decode(errors="replace")), path


def test_what_leaked_is_marked_where_it_stood(place, done):
    said = "said [redacted] and [redacted]\n"
    assert said * len(PLANTED) in (place / "out/round_01/stage_0/train.log").read_text()
    events = (place / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    (leak,) = [e for e in map(json.loads, events) if e["event"] == "leak" and "round" not in e][1:]
    assert leak["everything"][0]["text"].count("[redacted]") == len(PLANTED) + 1
    manifest = json.loads((place / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe_text"].startswith("# of https://[redacted]@host.invalid/data\n")


def test_nothing_is_said_of_one(done):
    assert "plugin 'leaky_plugin' failed in ptl_round_finished" in done.stderr
    assert "ValueError: [redacted]" in done.stderr
    assert not found_in(done.stdout + done.stderr)


TOLD = "r.yaml: recover.0.settings.trust_remote_code: true: Python code that lies in the checkpoint"


def test_remote_code_that_the_recipe_switches_on_is_told_by_the_run(done):
    assert f"PTL: {TOLD} will be run\n" in done.stderr


def test_a_report_holds_none(place, done, ptl):
    code, said = ptl("report", "out", "--out", "report")
    assert code == 0, said
    for path in (place / "report").rglob("*"):
        assert path.is_dir() or not found_in(path.read_bytes().decode(errors="replace")), path


def test_a_dry_run_shows_none(place, ptl):
    code, said = ptl("run", "r.yaml", "-p", "leaky_plugin", "--run-dir", "x", "--dry-run")
    assert code == 0, said
    assert not found_in(said)
    assert TOLD in said


@pytest.mark.parametrize(
    ("word", "key"),
    [
        (f"data.path={ADDRESS}", "data.path"),
        (f"recover.0.settings.mirrors=[{ADDRESS}]", "recover.0.settings.mirrors.0"),
        ("recover.0.settings.hub_token=planted", "recover.0.settings.hub_token"),
        ("recover.0.launch.options.api_key=planted", "recover.0.launch.options.api_key"),
        (f"evaluate.tasks=[{{evaluator: speed, x: {PLANTED['HF_TOKEN']}}}]", "evaluate.tasks.0.x"),
        (f"recover.0.settings.note=see {PLANTED['AWS_SECRET_ACCESS_KEY']}!",
         "recover.0.settings.note"),
        (f"model={PLANTED['DB_PASSWORD']}", "model"),
    ],
)  # fmt: skip
def test_a_recipe_with_one_is_refused_by_its_key(place, ptl, word, key):
    before = sorted(place.rglob("*"))
    code, said = ptl("run", "r.yaml", "-p", "leaky_plugin", "--run-dir", "new", "--set", word)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith(f"ptl: r.yaml: {key}: ")
    assert not found_in(said)
    assert sorted(place.rglob("*")) == before


def test_words_that_are_no_recipe_are_not_repeated(ptl):
    code, said = ptl("run", "r.yaml", "--set", ADDRESS)
    assert code == 2
    assert "https://[redacted]@host.invalid" in said
    assert not found_in(said)
