"""The page on launchers says what the code does, and its examples run."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ptl_plugins import slurm_job, slurm_launch, slurm_options
from ptl_plugins.local_launch import NOTE
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.run_recipe import StageModel
from ptl_plugins.stage_types import Command, LaunchSpec

TEXT = (Path(__file__).parents[2] / "docs" / "launching.md").read_text(encoding="utf-8")
ADDRESS = "http://head:8265"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Register an example by name, beside stand-ins of `apptainer` and `ray`."""
    stand_in = f"#!{sys.executable}\nimport os, subprocess, sys\n" + (
        "open('calls', 'a').write(repr(sys.argv) + '\\n')\n"
        "words = sys.argv[sys.argv.index('python' if 'exec' in sys.argv else '--') + 1:]\n"
        "if 'exec' in sys.argv: os.execv(sys.executable, [sys.executable, *words])\n"
    )
    ray = stand_in.replace("words =", "if 'stop' in sys.argv: sys.exit()\nwords =")
    (tmp_path / "apptainer").write_text(stand_in)
    (tmp_path / "ray").write_text(ray + "os.execvp(words[0], words)\n")
    for name in ("apptainer", "ray"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def build(name):
        (text,) = (text for text in blocks("python") if text.startswith(f"# {name}.py\n"))
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        manager = build_manager(autoload=False)
        manager.register(module, name)
        return manager, build_registry(manager)

    return build


def command(tmp_path, program, launcher, timeout=None, **options):
    return Command(
        words=(sys.executable, "-c", program),
        folder=tmp_path,
        log=tmp_path / "stage_0" / "log",
        environment={"ODD": "a 'b' $c"},
        launch=LaunchSpec(launcher=launcher, options=options, timeout=timeout),
    )


PROGRAM = "import os, sys; print(os.getcwd(), os.environ['ODD']); sys.exit(4)"
CASES = [
    ("apptainer_launch", "apptainer", {"image": "my.sif"}),
    ("ray_launch", "ray", {"address": ADDRESS}),
]


@pytest.mark.parametrize(("module", "name", "options"), CASES)
def test_an_example_runs_the_program_with_its_folder_environment_and_log(
    start, tmp_path, module, name, options
):
    manager, registry = start(module)
    wanted = command(tmp_path, PROGRAM, name, **options)
    ctx = SimpleNamespace(folder=tmp_path)
    result = manager.hook.ptl_launch(ctx=ctx, command=wanted)
    assert (result.exit_code, result.timed_out) == (4, False)
    assert wanted.log.read_text() == f"{tmp_path} a 'b' $c\n"
    assert registry.launchers.get(name).check(wanted.launch) is None
    assert next(iter(options)) in registry.launchers.get(name).check(LaunchSpec(launcher=name))
    preview = registry.launchers.get(name).preview(wanted)
    assert preview.startswith(name)
    assert options[next(iter(options))] in preview


@pytest.mark.parametrize(("module", "name", "options"), CASES)
def test_an_example_leaves_other_launchers_commands_alone(start, tmp_path, module, name, options):
    manager, _ = start(module)
    ctx = SimpleNamespace(folder=tmp_path)
    result = manager.hook.ptl_launch(ctx=ctx, command=command(tmp_path, PROGRAM, "local"))
    assert result.exit_code == 4
    assert not (tmp_path / "calls").exists()


def test_the_example_for_containers_leaves_a_note_that_local_understands(start, tmp_path):
    manager, _ = start("apptainer_launch")
    see = f"import os; print(os.path.exists({NOTE!r}))"
    wanted = command(tmp_path, see, "apptainer", image="my.sif")
    manager.hook.ptl_launch(ctx=SimpleNamespace(folder=tmp_path), command=wanted)
    assert wanted.log.read_text() == "True\n"


@pytest.mark.parametrize("program", [PROGRAM, "import time; time.sleep(50)"])
def test_the_example_for_ray_stops_its_job_by_name(start, tmp_path, program):
    manager, _ = start("ray_launch")
    wanted = command(tmp_path, program, "ray", timeout=1.0, address=ADDRESS)
    before = time.monotonic()
    result = manager.hook.ptl_launch(ctx=SimpleNamespace(folder=tmp_path), command=wanted)
    assert result.timed_out is ("sleep" in program)
    assert time.monotonic() - before < 20
    submit, stop = (tmp_path / "calls").read_text().splitlines()
    name = re.search(r"--submission-id=(ptl-\w+)", submit)[1]
    assert stop.endswith(f"'job', 'stop', '--address={ADDRESS}', '{name}']")
    assert not (tmp_path / "ray_job.json").exists()


def test_the_example_for_ray_stops_what_a_killed_run_left(start, tmp_path):
    manager, _ = start("ray_launch")
    (tmp_path / "ray_job.json").write_text(json.dumps({"address": ADDRESS, "job": "old"}))

    class Answers:
        from ptl_plugins import hookimpl

        @hookimpl
        def ptl_recover(self, ctx, stage, subject):
            return (tmp_path / "ray_job.json").exists()

    manager.register(Answers())
    ctx = SimpleNamespace(folder=tmp_path)
    assert manager.hook.ptl_recover(ctx=ctx, stage=None, subject=None) is False
    assert "'old'" in (tmp_path / "calls").read_text()


def test_the_recipe_of_the_page_is_one():
    (text,) = blocks("yaml")
    (stage,) = yaml.safe_load(text)["recover"]
    launch = StageModel.model_validate(stage).launch
    assert slurm_launch.Slurm().check(LaunchSpec(**launch.model_dump())) is None


def test_the_numbers_and_refused_options_of_the_page_are_the_codes():
    assert f"asked every {slurm_job.POLL:.0f} seconds" in TEXT
    assert f"fail, for {slurm_job.POLL * slurm_job.MISSES / 60:.0f} minutes" in TEXT
    assert f"up to {slurm_job.CANCEL_WAIT / 60:.0f} minutes" in TEXT
    line = TEXT.split("is refused: ")[1].split(" and the like")[0]
    assert set(re.findall("`([a-z-]+)`", line)) <= set(slurm_options.OURS)
    assert all(f"`{name}`" in TEXT for name in (*slurm_job.PROGRAMS, slurm_launch.SCRIPT))
    assert slurm_launch.NOTE in TEXT


def test_the_keys_of_the_page_are_those_of_the_code():
    table = TEXT.split("| --- | --- | --- |\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(
        inspect.signature(LaunchSpec).parameters
    )
