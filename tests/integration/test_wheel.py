"""The wheel holds every module and every recipe, and its entry points are those of the docs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ptl_plugins", "llamafactory_ext", "verl_ext")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")  # a build leaves folders beside its sources
    for name in (*PACKAGES, "recipes", "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_every_module_is_in_the_wheel(wheel):
    modules = {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert len(modules) > 50
    assert modules <= set(wheel.namelist())


def test_every_recipe_is_in_the_wheel(wheel):
    files = (p for p in (ROOT / "recipes").rglob("*") if p.suffix in (".yaml", ".json"))
    recipes = {f"ptl_plugins/{p.relative_to(ROOT)}" for p in files}
    assert "ptl_plugins/recipes/schema.json" in recipes
    assert recipes <= set(wheel.namelist())


def test_the_packages_are_marked_as_typed(wheel):
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(wheel.namelist())


def test_the_entry_points_are_declared(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "ptl = ptl_plugins.cli.main:main" in text
    assert "ptl_llamafactory = llamafactory_ext.autoload:install" in text
    assert "llamafactory = llamafactory_ext.plugin" in text
