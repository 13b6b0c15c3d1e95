"""What verl itself is asked about a stage, in the interpreter that trains."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from ptl_plugins.stage_check import NotCheckedError
from verl_ext import verl_check
from verl_ext.grpo_settings import VerlModel
from verl_ext.grpo_stage import StageFacts
from verl_ext.verl_check import check_in_verl, inside_environment, inside_files
from verl_ext.verl_config import verl_overrides

needs_verl = pytest.mark.skipif(not importlib.util.find_spec("verl"), reason="needs verl")
FACTS = StageFacts(
    model=Path("/stage/model"),
    folder=Path("/stage"),
    reward_file=Path("/stage/reward.py"),
    reward_function="score_answer",
    prompt=Path("/stage/prompt.jinja"),
    chat_template=None,
    processes=1,
    seed=0,
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Work in a folder of the test's own, and forget the answers that others got."""
    verl_check._ask.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)


def overrides(rollout="hf_cpu", **config):
    keys = {"problems": {"path": "p"}, "rollout": rollout, "config": config}
    return verl_overrides(VerlModel.model_validate(keys), FACTS, "{{ messages }}\n'x'")


def check(python=sys.executable, rollout="hf_cpu", **config):
    return check_in_verl(str(python), overrides(rollout, **config), rollout=rollout)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package that is called verl on PYTHONPATH; return its folder's parent."""

    def write(modules, on_path=True):
        for name, text in modules.items():
            path = tmp_path / "clone" / "verl" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for folder in (tmp_path / "clone").rglob("*/"):
            (folder / "__init__.py").touch()
        if on_path:
            monkeypatch.setenv("PYTHONPATH", str(tmp_path / "clone"))
        return tmp_path / "clone"

    return write


@needs_verl
@pytest.mark.timeout(120)
def test_what_ptl_itself_writes_is_fine():
    assert check() is None


@needs_verl
@pytest.mark.timeout(120)
def test_a_key_that_verl_has_not_is_one_line_and_asked_once(monkeypatch):
    found = check(**{"trainer.no_such_key": 3})
    assert found.startswith("settings.config: ")
    assert "trainer.no_such_key" in found
    assert "\n" not in found
    monkeypatch.setattr(verl_check, "ask", None)
    assert check(**{"trainer.no_such_key": 3}) == found


@needs_verl
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vllm is here")
def test_an_engine_that_is_not_installed_is_told_with_what_verl_refuses():
    found = check(rollout="vllm", **{"actor_rollout_ref.actor.loss_agg_mode": "no_mode"})
    engine, value = found.splitlines()
    expected = f"settings.rollout: 'vllm' is not importable in {sys.executable}; install it"
    assert engine == expected
    assert value.startswith("settings.config: ")
    assert "no_mode" in value


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Let a stage bring another plugin."""

    def write(text):
        inside = shutil.copytree(verl_check.INSIDE, tmp_path / "in_verl")
        (inside / "plugin.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(verl_check, "INSIDE", inside)

    return write


@needs_verl
def test_a_plugin_that_is_broken_is_one_line(plugin):
    plugin("raise RuntimeError('is\\nbroken')\n")
    assert check() == "settings: verl cannot be imported (is; broken)"


@needs_verl
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_plugin_that_registers_nothing_is_told(plugin, monkeypatch):
    plugin("")
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    plugin_line = check(rollout="vllm").splitlines()[0]
    assert plugin_line.startswith("settings: Unknown trainer 'ptl_sync'")
    assert "PTL's plugin was not loaded" in plugin_line


EASYR1 = {"__init__": "__version__ = '0.3.3.dev0'\n", "trainer/main": "raise SystemExit"}


def test_easyr1_in_the_place_of_verl_is_one_line(package):
    package(EASYR1)
    assert check() == (
        f"python: what is called verl in {sys.executable} is EasyR1; use backend easyr1"
    )


def test_easyr1_in_the_folder_that_the_stage_works_in_is_seen_too(package, monkeypatch):
    monkeypatch.chdir(package(EASYR1, on_path=False))
    assert "is EasyR1; use backend easyr1" in check()


@pytest.mark.parametrize(
    ("modules", "line"),
    [
        (
            {"__init__": "__version__ = '0.8.0'", "trainer/main_ppo": ""},
            f"settings: verl 0.8.0 in {sys.executable}; 0.9.1 is supported",
        ),
        (
            {"__init__": "", "other": ""},
            f"python: what is called verl in {sys.executable} is not verl; "
            "name another interpreter",
        ),
        (
            {"__init__": "raise OSError('no\\n  libcudart')"},
            "settings: verl cannot be imported (no; libcudart)",
        ),
    ],
)
def test_a_verl_that_cannot_be_used_is_one_line(package, modules, line):
    package(modules)
    assert check() == line


@pytest.fixture
def without_packages(tmp_path):
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_an_interpreter_without_verl_is_not_checked(without_packages):
    with pytest.raises(NotCheckedError) as raised:
        check(without_packages)
    assert str(raised.value) == (
        f"verl is not importable in {without_packages}: its settings were not checked"
    )


def test_a_folder_with_verls_name_is_not_verl(without_packages, tmp_path, monkeypatch):
    (tmp_path / "verl").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotCheckedError, match="verl is not importable"):
        check(without_packages)


def test_an_interpreter_may_be_named_from_where_the_stage_works(without_packages, monkeypatch):
    monkeypatch.chdir(without_packages.parent.parent)
    with pytest.raises(NotCheckedError, match="verl is not importable in bin/python: "):
        check("bin/python")


def test_what_is_no_interpreter_is_one_line(tmp_path):
    (tmp_path / "python").write_text("text")
    assert check(tmp_path / "python") == (
        f"settings: verl could not check them: {tmp_path}/python cannot be started "
        "(Permission denied)"
    )


def test_a_stages_code_is_the_package_and_every_file_of_it(tmp_path):
    files = inside_files(tmp_path)
    inside = {
        path.name: path.read_text(encoding="utf-8") for path in verl_check.INSIDE.glob("*.py")
    }
    folder = tmp_path / "verl_ext"
    assert files.keys() == {folder / "__init__.py", *(folder / "in_verl" / n for n in inside)}
    assert all(files[folder / "in_verl" / name] == text for name, text in inside.items())
    assert list(tmp_path.iterdir()) == []


def test_a_stages_environment_keeps_the_path_and_asks_for_the_cpu_only_where_it_is_meant(
    monkeypatch,
):
    assert inside_environment(Path("/code"), rollout="vllm") == {
        "PYTHONPATH": "/code",
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.in_verl.plugin",
    }
    monkeypatch.setenv("PYTHONPATH", "/mine")
    found = inside_environment(Path("/code"), rollout="hf_cpu")
    assert found["PYTHONPATH"] == "/code:/mine"
    assert (found["VERL_PLATFORM"], found["VERL_ENGINE_DEVICE"]) == ("cpu", "cuda")
