"""Qwen3, dense: norms on q and k, no biases as published; sliding windows by layer as in Qwen2."""

from __future__ import annotations

from ptl_plugins.families import Family
from ptl_plugins.families.qwen2 import windows_above

QWEN3 = Family(
    name="qwen3",
    model_types=("qwen3",),
    per_layer_defaults=windows_above,
    window_key="max_window_layers",
    window_size_key="sliding_window",
    default_window_size=4096,
    default_head_dim=128,
    norms_per_head=2,
    ffn_bias=False,
)
