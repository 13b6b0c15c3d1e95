"""Something is done once a module is imported, and not a moment before."""

from __future__ import annotations

import importlib
import sys

import pytest

from verl_ext.in_verl.late_import import when_imported


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that nobody imported, with a module that knows a number."""
    folder = tmp_path / "late_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("LOG = []\n", encoding="utf-8")
    (folder / "numbers.py").write_text("NUMBER = 3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "late_package"
    for name in ("late_package", "late_package.numbers"):
        sys.modules.pop(name, None)


def test_it_is_done_once_the_module_is_whole(package):
    seen = []
    action = lambda: seen.append(sys.modules["late_package.numbers"].NUMBER)  # noqa: E731
    when_imported("late_package.numbers", action)
    importlib.import_module(package)
    assert seen == []
    importlib.import_module("late_package.numbers")
    importlib.import_module("late_package.numbers")
    assert seen == [3]


def test_it_is_done_at_once_where_the_module_is_there(package):
    importlib.import_module(package)
    seen = []
    when_imported(package, lambda: seen.append(1))
    assert seen == [1]


def test_asked_twice_it_is_done_once(package):
    seen = []
    for _ in range(2):
        when_imported(package, lambda: seen.append(1))
    importlib.import_module(package)
    assert seen == [1]


def test_the_module_is_found_as_ever(package):
    when_imported(package, lambda: None)
    module = importlib.import_module(package)
    assert module.__spec__.origin == module.__file__
    assert module.__loader__.get_source(package) == "LOG = []\n"
    assert module.__path__


def test_a_module_that_is_not_there_stays_away(package):
    when_imported("late_package.nothing", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module("late_package.nothing")
