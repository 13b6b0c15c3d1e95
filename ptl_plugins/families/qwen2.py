"""Qwen2 and Qwen2.5: biases on q, k and v; sliding windows by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.families import Family


def windows_above(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the default `layer_types`: a window from layer `max_window_layers` on, if at all."""
    windowed = config.get("use_sliding_window", False)
    if config.get("sliding_window", 4096) is None:
        windowed = False
    full = config.get("max_window_layers", 28) if windowed else config["num_hidden_layers"]
    kinds = ("full_attention", "sliding_attention")
    return {"layer_types": [kinds[i >= full] for i in range(config["num_hidden_layers"])]}


QWEN2 = Family(
    name="qwen2",
    model_types=("qwen2",),
    per_layer_defaults=windows_above,
    window_key="max_window_layers",
    window_size_key="sliding_window",
    default_window_size=4096,
    qkv_bias=True,
    output_bias=False,
    ffn_bias=False,
)
