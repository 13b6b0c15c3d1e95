"""The autoload never raises, imports only the standard library, and waits for its targets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llamafactory_ext import autoload


def python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout + done.stderr


def test_install_imports_nothing_but_the_standard_library():
    code = (
        "import sys; from llamafactory_ext.autoload import install; install();"
        "print([m for m in ('torch', 'pluggy', 'pydantic', 'yaml') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_install_twice_is_as_good_as_once():
    code = (
        "import sys; from llamafactory_ext import autoload; autoload.install(); autoload.install();"
        "print(sum(isinstance(f, autoload._Finder) for f in sys.meta_path))"
    )
    assert python(code).strip() == "1"


def test_the_switch_keeps_it_out():
    code = (
        "import sys; from llamafactory_ext import autoload; autoload.install();"
        "print(sum(isinstance(f, autoload._Finder) for f in sys.meta_path))"
    )
    assert python(code, PTL_AUTOLOAD="0").strip() == "0"


def test_a_failure_is_a_line_and_no_exception(monkeypatch, capsys):
    monkeypatch.setattr(autoload, "_is_loaded", lambda module: 1 / 0)
    monkeypatch.setattr(autoload, "TARGETS", ("sys",))
    autoload.install()
    assert "autoload failed, LLaMA-Factory runs without it" in capsys.readouterr().err


def test_a_patch_that_fails_leaves_the_module_usable(tmp_path, monkeypatch, capsys):
    (tmp_path / "ptl_target.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(autoload, "TARGETS", ("ptl_target",))
    monkeypatch.setattr(autoload, "_patch", lambda module: 1 / 0)
    monkeypatch.setattr(sys, "meta_path", [autoload._Finder(), *sys.meta_path])
    import ptl_target

    assert ptl_target.value == 7
    assert "cannot enter ptl_target" in capsys.readouterr().err


def test_other_modules_are_left_to_python():
    assert autoload._Finder().find_spec("json") is None


@pytest.mark.timeout(120)
def test_torch_alone_does_not_load_the_core():
    code = "import torch, sys; print('ptl_plugins' in sys.modules)"
    assert python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="1").strip().endswith("False")
