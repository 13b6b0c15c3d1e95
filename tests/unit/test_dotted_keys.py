"""Nested keys as one level."""

from __future__ import annotations

from ptl_plugins.dotted_keys import dotted


def test_keys_of_mappings_and_places_in_lists_are_joined():
    value = {"a": {"b": [1, {"c": None}]}, "d": (), 5: "x"}
    assert list(dotted(value)) == [("a.b.0", 1), ("a.b.1.c", None), ("5", "x")]
    assert list(dotted([1], "start")) == [("start.0", 1)]
    assert list(dotted(3)) == [("", 3)]
