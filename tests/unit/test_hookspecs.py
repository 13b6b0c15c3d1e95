"""Every hook is documented and annotated, and its signature can be called by name."""

from __future__ import annotations

import inspect

import pytest

from ptl_plugins import hookspecs

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("ptl_")}
FIRST = {name for name, f in HOOKS.items() if f.ptl_spec["firstresult"]}


def test_the_hooks_are_those_of_the_design():
    assert set(HOOKS) >= {
        "ptl_register", "ptl_profile", "ptl_select", "ptl_prune", "ptl_recover", "ptl_evaluate",
        "ptl_trainer_callbacks", "ptl_round_finished", "ptl_run_finished",
    }  # fmt: skip
    assert {"ptl_profile", "ptl_select", "ptl_prune", "ptl_recover", "ptl_evaluate"} <= FIRST
    assert not FIRST & {"ptl_register", "ptl_round_finished", "ptl_run_finished"}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_and_annotated(name):
    hook = HOOKS[name]
    text = inspect.getdoc(hook)
    assert text
    assert text.startswith("Called ")
    signature = inspect.signature(hook)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f":param {parameter.name}:" in text
    assert (":return:" in text) is (signature.return_annotation != "None")
    assert ("Stops at the first non-None result." in text) is (name in FIRST)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_no_defaults_and_no_star(name):
    """pluggy drops arguments after a `*` and never passes one that has a default."""
    for parameter in inspect.signature(HOOKS[name]).parameters.values():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is inspect.Parameter.empty


@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_first_result_hook_may_answer_none(name):
    assert str(inspect.signature(HOOKS[name]).return_annotation).endswith("| None")
