"""The launcher, as the program that it is, against a small package of EasyR1's shape (`fake`)."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import verl_ext
from verl_ext import easyr1_launch
from verl_ext.in_verl import step_metrics

FAKE = Path(__file__).with_name("fake")
PROGRAM = Path(verl_ext.__file__).with_name("easyr1_launch.py")
DATA = {"mini_rollout_batch_size": None, "rollout_batch_size": 4}
TRAINER = {"max_steps": 5, "total_epochs": 2, "logger": ["console"]}


def launch(folder, *, path=FAKE, data=DATA, batches=4, **trainer):
    """Start the program as a stage does, from a folder whose name is awkward."""
    folder = folder / "a = b: c #1"
    folder.mkdir()
    program = Path(shutil.copy(PROGRAM, folder))
    keys = {"data": data, "trainer": {**TRAINER, **trainer}, "batches": batches}
    (folder / "config.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program.name, "config.yaml", "notes/steps.jsonl"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    steps = folder / "notes" / "steps.jsonl"
    lines = steps.read_text(encoding="utf-8").splitlines() if steps.is_file() else []
    return done, [json.loads(line, parse_constant=pytest.fail) for line in lines]


def test_easyr1s_trainer_runs_as_it_is_and_each_step_is_noted(tmp_path):
    done, steps = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step ") == 6, "five steps and the validation at the end"
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert steps[1]["reward"] == 0.5
    assert (steps[1]["learning_rate"], steps[1]["seconds"]) == (1e-6, 1.5)
    assert steps[1]["response_length"] == 12


def test_what_was_not_measured_or_is_no_number_is_null(tmp_path):
    _, steps = launch(tmp_path)
    nulls = {"kl", "gradient_norm", "entropy", "clip_fraction", "rollout_correlation"}
    assert nulls <= {field for field, value in steps[0].items() if value is None}


def test_the_fields_are_those_of_the_other_backend():
    assert list(easyr1_launch.FIELDS) == list(step_metrics.FIELDS)


@pytest.mark.parametrize(
    ("keys", "num_steps"),
    [
        ({"max_steps": 5}, 5),
        ({"max_steps": 50}, 8),
        ({"max_steps": None}, 8),
        ({"max_steps": None, "data": {**DATA, "mini_rollout_batch_size": 2}}, 4),
    ],
)
def test_the_epochs_are_the_most_steps(keys, num_steps, tmp_path):
    _, steps = launch(tmp_path, **keys)
    assert len(steps) == num_steps


def test_every_process_of_the_job_is_told_where_the_clone_is(tmp_path):
    done, _ = launch(tmp_path)
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("ray ")]
    variables = json.loads(line.removeprefix("ray "))["runtime_env"]["env_vars"]
    assert variables == {"NCCL_DEBUG": "WARN", "PYTHONPATH": str(FAKE)}


@pytest.fixture
def package(tmp_path):
    """Write a package called verl with the given modules below `trainer`."""

    def write(*modules):
        trainer = tmp_path / "package" / "verl" / "trainer"
        trainer.mkdir(parents=True)
        for path in (trainer.parent / "__init__.py", *(trainer / name for name in modules)):
            path.write_text("raise SystemExit('imported')\n", encoding="utf-8")
        return trainer.parents[1]

    return write


@pytest.mark.parametrize(
    ("modules", "line"),
    [
        (("main.py", "main_ppo.py"), "is verl, not EasyR1: put EasyR1's clone first on PYTHONPATH"),
        (("main_ppo.py",), "is verl, not EasyR1"),
        ((), "is not EasyR1"),
    ],
)
def test_another_package_of_the_name_is_refused_before_it_is_imported(
    modules, line, package, tmp_path
):
    done, steps = launch(tmp_path, path=package(*modules))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert line in done.stderr
    assert steps == []


def test_no_package_of_the_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "verl", raising=False)
    (tmp_path / "verl").mkdir()  # a folder of the name is no package
    assert "EasyR1 is not importable in" in str(easyr1_launch.package_problem())


def test_too_few_words_are_answered_with_the_usage(capsys):
    assert easyr1_launch.main(["config.yaml"]) == 2
    assert "CONFIG.yaml STEPS.jsonl" in capsys.readouterr().err


def test_the_program_needs_nothing_but_python_and_easyr1():
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"ray", "verl"}
