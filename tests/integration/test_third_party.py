"""A third party's plugin works by `pip install` alone; one that does not work says whose it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ptl_plugins.run_folder import read_plan
from ptl_plugins.scores_file import read_scores
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

SOURCES = Path(__file__).with_name("third_party")
ROOT = Path(__file__).parents[2]
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "refit": "none",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "criterion": "copycat_mean_size", "amount": 8, "rounds": 2}],
    "recover": [{"backend": "copycat", "settings": {"greeting": "good morning"}}],
}
HOOK = "from ptl_plugins import hookimpl\n\n\n@hookimpl\n"
TROUBLE = {
    "import": ("import frobnicate\n", "ModuleNotFoundError: No module named 'frobnicate'"),
    "signature": (f"{HOOK}def ptl_prune(ctx, model):\n    return None\n", "{'model'}"),
    "newer": (f"{HOOK}def ptl_distil(ctx):\n    return None\n", "has no ptl_distil"),
    "register": (
        f"{HOOK}def ptl_register(registry):\n    registry.optimizers.add('mine', 1)\n",
        "ptl_register failed: AttributeError: 'Registry' object has no attribute 'optimizers'",
    ),
}
"""What is wrong with a plugin: its module, and what the one line has to say."""


def build_wheel(sources, out):
    """Return the wheel of a distribution."""
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*words, "-w", str(out), str(sources)], check=True)
    (path,) = out.glob("*.whl")
    return path


def environment(folder, *wheels):
    """Return the interpreter of a new environment: PTL as it is here, and the wheels."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    installed = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site / "project.pth").write_text(f"{ROOT}\n{installed}\n", encoding="utf-8")
    for wheel in wheels:
        words = [python, "-m", "pip", "install", "--no-deps", "--no-index", "-q", wheel]
        subprocess.run(words, check=True)
    return python


@pytest.fixture(scope="module")
def copycat(tmp_path_factory):
    """The wheel of the working plugin."""
    sources = tmp_path_factory.mktemp("copycat")  # a build leaves folders beside its sources
    shutil.copytree(SOURCES, sources / "sources")
    return build_wheel(sources / "sources", sources)


@pytest.fixture(scope="module")
def python(tmp_path_factory, copycat):
    """An interpreter that has PTL and the plugin."""
    return environment(tmp_path_factory.mktemp("environment"), copycat)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory, copycat):
    """Interpreters that have a plugin with some trouble beside the working one."""
    made = {}

    def make(trouble):
        if trouble not in made:
            folder = tmp_path_factory.mktemp(trouble)
            (folder / "trouble.py").write_text(TROUBLE[trouble][0], encoding="utf-8")
            (folder / "pyproject.toml").write_text(
                '[project]\nname = "ptl-trouble"\nversion = "0.3"\n'
                '[project.entry-points.ptl]\ntroubled = "trouble"\n'
                '[tool.setuptools]\npy-modules = ["trouble"]\n',
                encoding="utf-8",
            )
            made[trouble] = environment(folder / "e", copycat, build_wheel(folder, folder / "w"))
        return made[trouble]

    return make


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model, a corpus and a recipe that names what the plugin registers."""
    folder = tmp_path_factory.mktemp("work")
    write_tiny_checkpoint(folder / "model")
    write_tiny_corpus(folder / "data", num_documents=30)
    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return folder


@pytest.fixture
def ptl(work):
    """Run a command of `ptl` in the folder; nothing in the environment names a plugin."""

    def run(python, *words, **variables):
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PTL_PLUGINS")}
        return subprocess.run(
            [python, "-m", "ptl_plugins", *words],
            cwd=work,
            env={**ours, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_an_installed_plugin_and_its_names_are_listed_with_where_they_come_from(python, ptl):
    done = ptl(python, "ls")
    assert done.returncode == 0, done.stderr
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["copycat", "ptl-copycat 1.4 (ptl_copycat)"] in rows, "of plugins"
    assert ["copycat_mean_size", "neuron  copycat"] in rows, "of criteria"
    assert ["copycat", "copycat"] in rows, "of backends: its name, and the plugin's"
    assert ptl(python, "ls", "plugins").stdout.count("ptl-copycat 1.4") == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_with_its_criterion_backend_and_wrapper_ends_in_a_plain_checkpoint(python, ptl, work):
    done = ptl(python, "run", "r.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    out, before = work / "out", load_file(work / "model" / "model.safetensors")
    name, marks = "model.layers.0.mlp.up_proj.weight", []
    for folder in (out / "round_01", out / "round_02"):
        plan, (scores, _) = read_plan(folder), read_scores(folder / "scores.safetensors")
        lowest = np.argsort(scores.statistics["copycat_size_sum"], axis=1)[:, :8]
        assert np.array_equal(np.sort(lowest, axis=1), plan.removed_neurons), "its criterion chose"
        after = load_file(folder / "model" / "model.safetensors")
        assert after[name].equal(before[name][plan.kept_neurons(0)]), "its backend copied"
        log = (folder / "stage_0" / "train.log").read_text(encoding="utf-8")
        assert log.startswith("good morning\ncopied ")
        marks.append((folder / "copycat.txt").read_text(encoding="utf-8"))
        before = after
    assert marks == ["round 1: width 48 to 40\n", "round 2: width 40 to 32\n"], "its wrapper saw"
    assert "copycat" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["plugins"]
    model = AutoModelForCausalLM.from_pretrained(out / "round_02" / "model")
    assert model.config.intermediate_size == 32


def test_a_plugin_that_is_switched_off_is_not_imported(python, ptl, tmp_path):
    mark = tmp_path / "imported"
    for words, variables in (
        (["-p", "no:copycat"], {}),
        ([], {"PTL_PLUGINS": "no:copycat"}),
    ):
        done = ptl(python, "ls", "plugins", *words, COPYCAT_IMPORTED=str(mark), **variables)
        assert ["copycat", "blocked"] in [line.split() for line in done.stdout.splitlines()]
        assert not mark.exists()
    ptl(python, "ls", "plugins", COPYCAT_IMPORTED=str(mark))
    assert mark.exists(), "else the above means nothing"


def test_without_the_plugin_a_recipe_that_names_its_parts_is_refused(python, ptl, work):
    done = ptl(python, "run", "r.yaml", "-p", "no:copycat", "--set", "run_dir=refused")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "schedule.0.criterion: unknown criterion 'copycat_mean_size'" in first
    assert "activation_max" in first.split("available: ")[1]
    assert "recover.0.backend: unknown backend 'copycat'" in second
    assert "llamafactory" in second.split("available: ")[1]
    assert not (work / "refused").exists()


@pytest.mark.parametrize("command", ["ls plugins", "validate r.yaml", "run r.yaml"])
def test_a_broken_plugin_is_one_line_of_every_command(troubled, ptl, command):
    done = ptl(troubled("import"), *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ptl: plugin 'troubled' (ptl-trouble 0.3): failed to import: ModuleNotFoundError: No "
        "module named 'frobnicate'; switch it off with -p no:troubled, or PTL_PLUGINS=no:troubled "
        "in the environment\n"
    )


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_plugin_with_trouble_names_itself_and_the_way_out_which_works(troubled, ptl, trouble):
    done = ptl(troubled(trouble), "ls", "plugins")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ptl: plugin 'troubled' (ptl-trouble 0.3): ")
    assert TROUBLE[trouble][1] in line
    *words, variable = line.split("switch it off with ")[1].split(", or ")
    assert (words, variable.split()[0]) == (["-p no:troubled"], "PTL_PLUGINS=no:troubled")
    off = ptl(troubled(trouble), "validate", "r.yaml", *words[0].split())
    assert (off.returncode, off.stdout) == (0, "r.yaml: ok, 2 rounds\n"), off.stderr


def test_the_variable_switches_a_broken_plugin_off_as_well(troubled, ptl):
    done = ptl(troubled("import"), "ls", "plugins", PTL_PLUGINS="no:troubled")
    assert done.returncode == 0, done.stderr
    assert "ptl-copycat 1.4" in done.stdout


def test_the_help_works_beside_a_broken_plugin(troubled, ptl):
    done = ptl(troubled("import"), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "validate" in done.stdout
