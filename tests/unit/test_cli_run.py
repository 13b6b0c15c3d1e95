"""`ptl run` as a user meets it: options, one line for a mistake, and how a stopped run goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest
import typer
import yaml

from ptl_plugins.cli.main import build_app, main
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

OPTIONS = {"--run-dir", "--set", "--dry-run", "-p"}
"""A new option is a decision: it goes here and into docs/run.md."""
KEYS = {
    "model": "model",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
    "recover": [{"backend": "fake"}],
}
FAKE = ("-p", "ptl_plugins.testing.fake_backend")
PROGRAM = (
    "import signal; from ptl_plugins.cli.main import main\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a terminal
    "main()\n"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory: `model`, `data` and `a recipe.yaml`."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=20)
    (tmp_path / "a recipe.yaml").write_text(yaml.safe_dump(KEYS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Run `ptl` in this process; return exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *words])
        capsys.readouterr()  # what making the model and data printed
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capsys.readouterr()
        return raised.value.code, out, err

    return run


def events(folder):
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def fake(tmp_path, does):
    """Return words that let the fake stage fail until `cause` is gone."""
    (tmp_path / "cause").touch()
    settings = {"does": does, "rounds": [2], "while_exists": str(tmp_path / "cause")}
    return ("--set", f"recover.0.settings={json.dumps(settings)}")


def test_the_options_are_few_and_named_here():
    command = typer.main.get_command(build_app("run")).commands["run"]
    options = {name for parameter in command.params for name in parameter.opts}
    assert options == OPTIONS | {"recipe"}


def test_the_run_folder_is_the_options_the_recipes_or_named_after_it(ptl, place, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for words, folder in (
        (("--set", "run_dir=~/ours"), "/home/me/ours"),
        (("--run-dir", "~/mine"), "/home/me/mine"),
        ((), "runs/a recipe"),
        (("--set", "run_dir=ours"), "ours"),
        (("--set", "run_dir=ours", "--run-dir", "b/mine"), "b/mine"),
    ):
        code, out, _ = ptl("run", "a recipe.yaml", "--dry-run", *words, *FAKE)
        assert code == 0
        assert f"  run folder {folder}: starts anew\n" in out
        assert f"{folder}/round_02/model: the last round's model\n" in out
    assert {path.name for path in place.iterdir()} == {"model", "data", "a recipe.yaml"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run-dir", ""), "ptl: --run-dir: is empty; name a folder\n"),
        (("--run-dir", "a recipe.yaml"), "is a file; choose another run folder\n"),
        (("--set", "data.path=none.txt"), "ptl: a recipe.yaml: data 'none.txt': no such file\n"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_mistake_is_one_line_and_nothing_is_written(ptl, place, words, message, dry):
    code, out, err = ptl("run", "a recipe.yaml", *words, *dry, *FAKE)
    assert (code, out) == (2, "")
    assert err.endswith(message)
    assert err.count("\n") == 1
    assert {path.name for path in place.iterdir()} == {"model", "data", "a recipe.yaml"}


def test_a_recipe_of_a_frameworks_own_door_is_refused_with_the_way_to_start_it(ptl, place):
    facts = {"model_name_or_path": "model", "stage": "pt", "do_train": True, "output_dir": "out",
             "finetuning_type": "full", "dataset_dir": "data", "dataset": "tiny",
             "ptl": {"schedule": [{"unit": "neuron", "amount": 8}]}}  # fmt: skip
    (place / "lf.yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")
    for dry in ((), ("--dry-run",)):
        code, out, err = ptl("run", "lf.yaml", "--run-dir", "out", *dry)
        assert (code, out) == (2, "")
        assert err.endswith("start it with 'llamafactory-cli train lf.yaml'\n")
    assert not (place / "out").exists()


def test_a_failed_stage_says_that_the_same_command_goes_on_and_it_does(ptl, place):
    words = ("run", "a recipe.yaml", "--run-dir", "out", *fake(place, "fail"), *FAKE)
    code, _, err = ptl(*words)
    *lines, hint = err.splitlines()
    assert code == 2
    assert lines[-1] == "RuntimeError: out of memory", "the stage's own last line stays"
    assert hint.startswith("once the cause is mended, the same command goes on: ptl run ")
    assert shlex.split(hint.partition("goes on: ")[2]) == ["ptl", *words]
    assert "stopped" not in {event["event"] for event in events(place / "out")}
    (place / "cause").unlink()
    assert ptl(*words)[:2] == (0, "out/round_02/model: the last round's model\n")


def test_a_run_folder_that_was_moved_goes_on_by_its_new_name(ptl, place):
    words = ("a recipe.yaml", *fake(place, "fail"), *FAKE)
    assert ptl("run", *words)[0] == 2
    (place / "runs" / "a recipe").rename(place / "moved")
    (place / "cause").unlink()
    code, out, _ = ptl("run", *words, "--run-dir", "moved")
    assert (code, out) == (0, "moved/round_02/model: the last round's model\n")
    assert [event["finished_rounds"] for event in events(place / "moved")
            if event["event"] == "opened"] == [0, 1]  # fmt: skip
    assert not (place / "runs" / "a recipe").exists()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_ends_its_program_and_says_how_to_go_on(ptl, place, number, code):
    words = ("run", "a recipe.yaml", "--run-dir", "out", *fake(place, "hang"), *FAKE)
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stderr=subprocess.PIPE, text=True
    )
    children = _once_it_hangs(run, place / "out" / "round_02" / "stage_0" / "train.log")
    os.kill(run.pid, number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == code
    assert "Traceback" not in err
    said, _, again = err.splitlines()[-1].partition(" goes on: ")
    assert said == "ptl: stopped; the same command"
    assert shlex.split(again) == ["ptl", *words]
    assert not any(child.is_running() for child in children)
    last = events(place / "out")[-1]
    facts = {"event": "stopped", "round": 2, "step": "recover", "stage": 0}
    assert {key: value for key, value in last.items() if key != "time"} == facts
    (place / "cause").unlink()
    code, out, _ = ptl(*shlex.split(again)[1:])
    assert (code, out) == (0, "out/round_02/model: the last round's model\n")


def _once_it_hangs(run, log):
    """Wait for the second round's stage; return the processes below the run."""
    for _ in range(600):
        if log.exists() and "fake training of" in log.read_text(encoding="utf-8"):
            children = psutil.Process(run.pid).children(recursive=True)
            assert len(children) == 1
            return children
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    raise AssertionError("the stage did not start")
