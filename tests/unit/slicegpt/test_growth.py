"""Slicing that makes a model larger is told with both numbers."""

from __future__ import annotations

import pytest

from ptl_plugins.geometry import geometry
from ptl_plugins.slicegpt.growth import growth_note

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
