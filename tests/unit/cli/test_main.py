"""`ptl` as a user meets it: help, exit codes, one line for a mistake, no heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from .conftest import invoke

COMMANDS = (
    "run", "plan", "validate", "ls", "profile", "prune", "data", "report", "doctor",
    "train-llamafactory", "quickstart", "miniature", "study",
)  # fmt: skip


def process(*words):
    """Run `ptl` as a process of its own and list the heavy modules it imported."""
    heavy = ("torch", "transformers", "llamafactory", "verl", "datasets", "matplotlib", "numpy")
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', sorted(set({heavy}) & set(sys.modules))))\n"
        "from ptl_plugins.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    out, _, imported = done.stdout.rpartition("HEAVY ")
    return done.returncode, out, done.stderr, imported.strip()


def test_help_names_every_command(ptl):
    code, out, _ = ptl("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plann"], "plann"),
        (["plan"], "RECIPE"),
        (["plan", "x.yaml", "--nope"], "--nope"),
        (["prune", "model"], "--out"),
        (["prune", "m", "--out", "o", "--multiple-of", "abc"], "--multiple-of"),
        (["prune", "m", "--layers", "1", "--out", "o" * 300], "o" * 300),
        (["prune", "m" * 300, "--layers", "1", "--out", "o"], "m" * 300),
    ],
)
def test_a_wrong_command_line_is_one_line_with_exit_code_2(ptl, words, told):
    code, out, err = ptl(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("ptl: ")
    assert told in err


def test_no_words_at_all_show_the_help(ptl):
    code, out, err = ptl()
    assert code == 2
    assert "Usage: " in out + err


@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt(), 130), (typer.Abort(), 130), (typer.Exit(3), 3)],
    ids=["interrupt", "abort", "exit"],
)
def test_what_ends_a_command_gives_the_exit_code(ptl, monkeypatch, error, expected):
    def fail(*args, **keys):
        raise error

    monkeypatch.setattr("ptl_plugins.manager.build_manager", fail)
    code, out, err = ptl("ls")
    assert (code, out) == (expected, "")
    assert "Traceback" not in err


def test_as_processes_the_light_commands_import_no_framework(write):
    path = write()
    bad = write("bad.yaml", ptl={"schedule": [{"unit": "neuron", "amount": 48}]})
    for words, code in (
        (["--help"], 0),
        (["ls"], 0),
        (["plan", path], 0),
        (["validate", path], 0),
        (["plan", bad], 2),
        (["validate", bad], 2),
    ):
        returned, out, err, imported = process(*words)
        assert (returned, imported) == (code, "[]"), (words, err)
        assert bool(out) is (code == 0)
        assert err.count("\n") == (1 if code else 0)
        assert "Traceback" not in err


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "ptl_plugins", "ls", "selectors"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == ["count", "flops", "fraction", "parameters", "threshold"]
