"""Recorded texts hold no path of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.study.portable import Places

PLACES = Places(study=Path("/w/study"), folder=Path("/w/F"), here=Path("/w"))


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/w/F/control/seed_1/run", "control/seed_1/run"),
        ("/w/data/train.jsonl", "data/train.jsonl"),
        ("/elsewhere/models/smollm2", "smollm2"),
        ("failed: /w/F/a/try_1.log is bad; see /x/y/z", "failed: a/try_1.log is bad; see z"),
        ("data/train.jsonl", "data/train.jsonl"),
        ("meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("1 / 2 and/or", "1 / 2 and/or"),
    ],
)
def test_absolute_paths_are_shortened_and_nothing_else(text, short):
    assert PLACES.text(text) == short


def test_values_of_all_depths_are_reached():
    value = {"a": [{"b": "/w/data/x"}], "n": 1, "none": None}
    assert PLACES.portable(value) == {"a": [{"b": "data/x"}], "n": 1, "none": None}
