"""`ptl ls`: every kind, what is of it and where it comes from."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.shipped_recipes import recipes_folder

from .conftest import invoke


def test_ls_lists_every_kind_with_where_it_comes_from():
    result = invoke("ls")
    assert result.exit_code == 0
    for line in (
        "baselines:",
        "families:",
        "criteria:",
        "selectors:",
        "evaluators:",
        "recipes:",
        "plugins:",
    ):
        assert line in result.stdout.splitlines()
    assert "activation_max" in result.stdout


def test_ls_of_one_kind_lists_that_alone(registry):
    names = [line.split()[0] for line in invoke("ls", "families").stdout.splitlines()]
    assert names == registry.families.names()
    assert {"gemma2", "llama", "phi3"} <= set(names)


def test_ls_criteria_shows_what_each_scores(registry):
    listed = [line.split()[:2] for line in invoke("ls", "criteria").stdout.splitlines()]
    assert listed == [[name, criterion.unit] for name, criterion in registry.criteria.items()]
    assert {unit for _, unit in listed} >= {"neuron", "layer"}


def test_ls_recipes_lists_every_shipped_yaml_but_the_studies():
    paths = (p.relative_to(recipes_folder()) for p in recipes_folder().rglob("*.yaml"))
    shipped = sorted(str(path) for path in paths if path.name != "study.yaml")
    listed = [line.split()[0] for line in invoke("ls", "recipes").stdout.splitlines()]
    assert listed == (shipped or ["(none)"])


def test_ls_baselines_lists_every_baseline_with_its_recipe_or_its_criterion(registry):
    listed = [line.split() for line in invoke("ls", "baselines").stdout.splitlines()]
    folder, files = recipes_folder(), {name: path for name, path, *_ in listed if "/" in path}
    assert set(files) == {"shortgpt", "slicegpt", "prune_once", "control"}
    by_file = {path for _, path, *_ in listed if (folder / path).is_file()}
    endings = tuple(f"{name}.yaml" for name in files)
    assert by_file == {
        str(p.relative_to(folder)) for p in folder.rglob("*.yaml") if p.name.endswith(endings)
    }
    assert all(path.endswith(f"{name}.yaml") for name, path, *_ in listed if "/" in path)
    by_words = {row[0]: row[1:3] for row in listed if "/" not in row[1]}
    assert by_words.pop("distillation") == ["distill:", "{teacher:"]
    assert by_words == {name: ["criterion:", name] for name in ("wanda_structured", "taylor")}
    assert all(registry.criteria.get(name).unit == "neuron" for name in by_words)
    assert all(len(row) > 5 for row in listed), "each says what it is"


def test_ls_shows_a_blocked_plugin_and_not_its_names():
    listed = invoke("ls", "plugins", "-p", "no:builtin").stdout
    assert ["builtin", "blocked"] in [line.split() for line in listed.splitlines()]
    assert invoke("ls", "families", "-p", "no:builtin").stdout == "(none)\n"


def test_ls_of_an_unknown_kind_suggests_one():
    with pytest.raises(PTLError, match=r"unknown kind 'critera' \(did you mean 'criteria'\?\)"):
        invoke("ls", "critera")


def test_a_plugin_that_is_not_there_is_the_users_mistake(ptl):
    code, out, err = ptl("ls", "-p", "not_there_at_all")
    assert (code, out) == (2, "")
    assert err == "ptl: -p not_there_at_all: no module named 'not_there_at_all'\n"
