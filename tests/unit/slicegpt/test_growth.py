"""Slicing that makes a model larger is told with both numbers."""

from __future__ import annotations

import pytest

from ptl_plugins.geometry import geometry
from ptl_plugins.schedule import PlannedRound
from ptl_plugins.slicegpt.growth import growth_note, growth_notes, hidden_of_original
from ptl_plugins.types import Cut, RoundSpec

GEMMA2_2B = {
    "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26,
    "intermediate_size": 9216, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 256, "vocab_size": 256000, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def gemma2(registry):
    return geometry(GEMMA2_2B, registry.families.get("gemma2"))


def test_a_quarter_of_gemma2_2b_grows_it_and_says_so(gemma2):
    note = growth_note(gemma2, gemma2.sliced(1728))
    assert note.startswith(
        "slicing the hidden size 2304 to 1728 makes the model larger, 2,614.3 M to 2,713.5 M "
        "parameters: every norm becomes a square matrix, and the tied vocabulary of 256,000 is"
    )
    assert "\n" not in note


def test_an_untied_model_grows_by_its_shortcuts_alone(registry):
    untied = geometry(GEMMA2_2B | {"tie_word_embeddings": False}, registry.families.get("gemma2"))
    assert "vocabulary" not in growth_note(untied, untied.sliced(2304))


def test_what_shrinks_or_is_not_sliced_has_no_note(gemma2):
    assert growth_note(gemma2, gemma2.sliced(1671)) is None
    assert growth_note(gemma2, gemma2) is None


def planned(index, unit, shape):
    cut = Cut(unit=unit, criterion="c", selector="s", amount=1)
    return PlannedRound(spec=RoundSpec(index=index, cuts=(cut,)), geometry=shape)


def test_a_round_is_held_against_the_one_before_it(gemma2):
    """Slicing adds to what a cut of layers left, though less is left than there was at first."""
    fewer = gemma2.after(width=gemma2.width, num_layers=20)
    rounds = [planned(1, "layer", fewer), planned(2, "hidden", fewer.sliced(1728))]
    assert growth_notes(gemma2, rounds) == {2: growth_note(fewer, fewer.sliced(1728))}
    assert growth_note(gemma2, fewer.sliced(1728)) is None
    assert growth_notes(gemma2, [planned(1, "hidden", gemma2.sliced(1728))]).keys() == {1}


def test_a_round_of_unknown_shape_has_no_note(gemma2):
    assert growth_notes(gemma2, [planned(1, "neuron", None), planned(2, "hidden", None)]) == {}


def test_the_hidden_size_is_told_where_it_is_not_the_originals(gemma2):
    assert hidden_of_original(gemma2.sliced(1728)) == "1728 of 2304"
    assert hidden_of_original(gemma2.sliced(2304)) is None
    assert hidden_of_original(gemma2) is None
