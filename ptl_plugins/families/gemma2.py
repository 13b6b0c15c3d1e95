"""Gemma2: four norms per layer, alternating sliding and full attention, GELU, tied embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.families import Family


def full_every(num: int, num_layers: int) -> dict[str, list[str]]:
    """Return `layer_types` in which each `num`-th layer has full attention, the rest a window."""
    kinds = ("full_attention", "sliding_attention")
    return {"layer_types": [kinds[bool((i + 1) % num)] for i in range(num_layers)]}


def alternating(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the default `layer_types`: every second layer has full attention."""
    return full_every(2, config["num_hidden_layers"])


GEMMA2 = Family(
    name="gemma2",
    model_types=("gemma2",),
    per_layer_defaults=alternating,
    window_size_key="sliding_window",
    default_window_size=4096,
    needs_bos=True,
    default_head_dim=256,
    norms_per_layer=4,
    ffn_bias=False,
    tied_by_default=True,
)
