"""Says before a run why a recipe's slicing cannot be done; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.families import Family
from ptl_plugins.types import Recipe

SLICEABLE = ("gemma2", "llama", "mistral", "qwen2")
"""Families whose layers the sliced model's code has."""


def slices(recipe: Recipe) -> bool:
    """Return whether a round of the recipe slices the residual stream."""
    return any(cut.unit == "hidden" for spec in recipe.rounds for cut in spec.cuts)


def why_not_sliced(recipe: Recipe, family: Family, config: Mapping[str, Any]) -> str | None:
    """Return one line that says why the recipe's slicing cannot be done, or None.

    Args:
        recipe: the run; without `data` it is that of a training framework's own door.
        family: of the model.
        config: the model's `config.json`.
    """
    if not slices(recipe):
        return None
    if recipe.data is None:
        return (
            "unit 'hidden' (SliceGPT) makes a model of another architecture, which cannot take the "
            "place of one that is being trained; use a recipe of ptl run, with this training as a "
            "stage in 'recover'"
        )
    if family.name not in SLICEABLE:
        return (
            f"unit 'hidden' (SliceGPT) does not know family '{family.name}'; it slices "
            f"{', '.join(SLICEABLE)}"
        )
    if config.get("use_bidirectional_attention"):
        return "use_bidirectional_attention: a sliced model attends to earlier tokens alone"
    return None
