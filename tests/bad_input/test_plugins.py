"""Plugins that are not there, break while they load, or answer with something else."""

from __future__ import annotations

import sys

import pytest
from good_recipes import FAKE

HEAD = "from ptl_plugins import hookimpl\n"
LOADING = {
    "not there": (None, ("-p broken", "no module")),
    "a module that is missing in it": ("import not_installed_anywhere\n", ("not_installed",)),
    "a syntax error": ("def (:\n", ("-p broken", "SyntaxError")),
    "not UTF-8": (b"a = '\xff'\n", ("-p broken",)),
    "a NUL": (b"a = 1\x00\n", ("-p broken",)),
    "an error at import": ("1 / 0\n", ("-p broken", "ZeroDivisionError")),
    "an error of two lines": ("raise ValueError('one\\ntwo')\n", ("-p broken", "one two")),
    "an exit at import": ("raise SystemExit(0)\n", ("-p broken", "SystemExit")),
    "a name that is not": ("from ptl_plugins import hook\n", ("-p broken", "ImportError")),
    "a recursion": ("def f():\n    f()\nf()\n", ("-p broken", "RecursionError")),
    "a hook that is misspelt": (
        HEAD + "@hookimpl\ndef ptl_regster(registry): ...\n",
        ("'broken'", "ptl_regster", "did you mean 'ptl_register'")),
    "a hook of another version": (
        HEAD + "@hookimpl\ndef ptl_teleport(ctx): ...\n", ("'broken'", "ptl_teleport")),
    "a hook without a marker": (
        "def ptl_register(registry): ...\n", ("'broken'", "ptl_register", "@hookimpl")),
    "an argument that is not": (
        HEAD + "@hookimpl\ndef ptl_register(regstry): ...\n", ("'broken'", "regstry")),
    "an announcement that is wrapped": (
        HEAD + "@hookimpl(wrapper=True)\ndef ptl_register(registry):\n    yield\n",
        ("'broken'", "ptl_register", "wrapped")),
    "an error in ptl_register": (
        HEAD + "@hookimpl\ndef ptl_register(registry): registry.criterions\n",
        ("'broken'", "ptl_register", "AttributeError")),
    "an error of two lines in ptl_register": (
        HEAD + "@hookimpl\ndef ptl_register(registry): raise ValueError('one\\ntwo')\n",
        ("'broken'", "ptl_register", "one two")),
    "a criterion twice": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.criteria.add('l2', 1)\n",
        ("'l2'", "twice", "'broken'")),
    "a family twice": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.families.add('llama', 1)\n",
        ("'llama'", "twice", "'broken'")),
    "a criterion that is a number": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.criteria.add('mine', 1)\n",
        ("'broken'", "'mine'", "criterion")),
    "a selector that is a function": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n"
        "    registry.selectors.add('mine', lambda cut: 1)\n", ("'broken'", "'mine'", "selector")),
    "a family that is a mapping": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.families.add('mine', {})\n",
        ("'broken'", "'mine'", "family")),
    "a backend that is a class": (
        HEAD + "class Mine:\n    def check(self, stage): ...\n"
        "@hookimpl\ndef ptl_register(registry):\n    registry.backends.add('mine', Mine())\n",
        ("'broken'", "'mine'", "backend")),
    "a launcher that is a text": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.launchers.add('mine', 'x')\n",
        ("'broken'", "'mine'", "launcher")),
    "an evaluator that is None": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n"
        "    registry.evaluators.add('mine', None)\n", ("'broken'", "'mine'", "evaluator")),
    "a name that is a number": (
        HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.families.add(3, {})\n",
        ("'broken'", "3", "name")),
}  # fmt: skip
RECIPE = HEAD + "@hookimpl\ndef ptl_read_recipe(source):\n"
READING = {
    "an error in a hook": (RECIPE + "    return 1 / 0\n", ("'broken'", "ptl_read_recipe", "Zero")),
    "an error of two lines in a hook": (
        RECIPE + "    raise ValueError('one\\ntwo')\n", ("'broken'", "ptl_read_recipe", "one two")),
    "a recipe that is a number": (
        RECIPE + "    return 3\n", ("'broken'", "ptl_read_recipe", "Recipe")),
    "a recipe that is a mapping": (
        RECIPE + "    return dict(source.keys)\n", ("'broken'", "ptl_read_recipe", "Recipe")),
}  # fmt: skip


@pytest.fixture
def broken(place, monkeypatch):
    """Write a plugin module that can be imported by name, and forget it afterwards."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        if text is not None:
            raw = text if isinstance(text, bytes) else text.encode()
            (place / "broken.py").write_bytes(raw)
        return ("-p", "broken")

    yield write
    sys.modules.pop("broken", None)


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize("case", LOADING | READING)
def test_a_plugin_that_breaks_a_recipe(refused, broken, command, case):
    text, names = (LOADING | READING)[case]
    refused(command, "run.yaml", *FAKE, *broken(text), names=names)


@pytest.mark.parametrize("case", LOADING)
def test_a_plugin_that_breaks_a_prune(refused, broken, case):
    text, names = LOADING[case]
    words = ("prune", "model", "--drop-layers", "1", "--out", "pruned")
    refused(*words, *broken(text), names=names)


@pytest.mark.parametrize("case", [case for case in LOADING if case != "not there"])
def test_a_plugin_of_the_environment_that_breaks_llamafactory(
    refused_by_llamafactory, broken, monkeypatch, case
):
    text, names = LOADING[case]
    broken(text)
    monkeypatch.setenv("PTL_PLUGINS", "broken")
    refused_by_llamafactory("train.yaml", names=names)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("-p", ""), ("-p",)),
        (("-p", "no:"), ("-p 'no:'",)),
        (("-p", "../broken"), ("-p ../broken",)),
        (("-p", ".broken"), ("-p .broken",)),
        (("-p", "bro ken"), ("-p bro ken",)),
        (("-p", "ptl_plugins.testing.fake_backend"), ("ptl_plugins.testing.fake_backend", "once")),
    ],
)
def test_a_plugin_that_is_named_wrongly(refused, words, names):
    refused("validate", "run.yaml", *FAKE, *words, names=names)
