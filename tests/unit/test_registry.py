"""Names are open, unique, suggested and frozen."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import PluginError, UnknownNameError
from ptl_plugins.registry import Catalogue, Registry


class Mine:
    """A component of this module."""


class Theirs:
    """A component of another plugin."""


@pytest.fixture
def catalogue():
    catalogue = Catalogue("criterion")
    catalogue.add("activation_max", Mine())
    catalogue.registering("theirs")
    catalogue.add("l2", Theirs())
    catalogue.registering("mine")
    return catalogue


def test_components_are_found_by_name_and_listed_sorted(catalogue):
    assert isinstance(catalogue.get("l2"), Theirs)
    assert catalogue.names() == ["activation_max", "l2"]
    assert [name for name, _ in catalogue.items()] == ["activation_max", "l2"]
    assert catalogue.origin("l2") == "theirs"


def test_an_unknown_name_lists_what_exists_and_suggests_the_closest(catalogue):
    with pytest.raises(UnknownNameError) as raised:
        catalogue.get("activation_mx")
    assert str(raised.value) == (
        "unknown criterion 'activation_mx' (did you mean 'activation_max'?); "
        "available: activation_max, l2"
    )


def test_nothing_is_suggested_where_nothing_is_close(catalogue):
    with pytest.raises(UnknownNameError) as raised:
        catalogue.get("zzz")
    assert "did you mean" not in str(raised.value)
    with pytest.raises(UnknownNameError, match="available: none"):
        Catalogue("selector").get("count")


def test_a_duplicate_names_both_origins_and_keeps_the_first(catalogue):
    first = catalogue.get("l2")
    with pytest.raises(PluginError) as raised:
        catalogue.add("l2", Mine())
    assert "by 'theirs' and 'mine'" in str(raised.value)
    assert "-p no:" in str(raised.value)
    assert catalogue.get("l2") is first


def test_a_frozen_catalogue_takes_nothing_more(catalogue):
    catalogue.freeze()
    with pytest.raises(PluginError, match="'late' comes too late"):
        catalogue.add("late", Mine())
    assert "late" not in catalogue.names()


def test_freezing_the_registry_freezes_every_catalogue():
    registry = Registry()
    registry.freeze()
    assert set(registry.catalogues()) == {
        "families", "criteria", "selectors", "backends", "launchers", "evaluators", "data",
    }  # fmt: skip
    for catalogue in registry.catalogues().values():
        with pytest.raises(PluginError, match="too late"):
            catalogue.add("x", Mine())


def test_two_registries_share_nothing():
    one, two = Registry(), Registry()
    one.families.add("mine", Mine())
    assert two.families.names() == []
