"""`--set key=value` on a parsed recipe."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe_file import override


@pytest.fixture
def keys():
    return {"seed": 1, "schedule": [{"unit": "neuron", "amount": 1}]}


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("schedule.0.amount=5B", ("schedule", 0, "amount"), "5B"),
        ("evaluate.tasks=[]", ("evaluate", "tasks"), []),
        ("schedule.0={unit: none}", ("schedule", 0), {"unit": "none"}),
    ],
)
def test_a_key_is_set_wherever_it_stands(keys, word, path, value):
    override(keys, word)
    place = keys
    for part in path:
        place = place[part]
    assert place == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("schedule.1.amount=3", "'1' is not one of 1 entries"),
        ("schedule.x=3", "'x' is not one of 1 entries"),
        ("seed.x=3", "there is no key 'x' in a plain value"),
        ("seed.x.y=3", "there is no key 'x' in a plain value"),
        ("seed=[", "the value is not YAML"),
    ],
)
def test_a_word_that_fits_nowhere_is_refused_in_one_line(keys, word, message):
    with pytest.raises(RecipeError, match=message):
        override(keys, word)
