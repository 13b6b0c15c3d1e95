"""Gemma3, the text model: as Gemma2, with norms on q and k and a window in five layers of six."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.families import Family
from ptl_plugins.families.gemma2 import full_every


def by_pattern(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the default `layer_types`: each `sliding_window_pattern`-th layer is full."""
    return full_every(config.get("sliding_window_pattern", 6), config["num_hidden_layers"])


GEMMA3 = Family(
    name="gemma3",
    model_types=("gemma3_text",),
    per_layer_defaults=by_pattern,
    window_size_key="sliding_window",
    default_window_size=4096,
    needs_bos=True,
    default_head_dim=256,
    norms_per_layer=4,
    norms_per_head=2,
    ffn_bias=False,
    tied_by_default=True,
)
