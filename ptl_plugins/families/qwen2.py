"""Qwen2 and Qwen2.5: biases on q, k and v; sliding windows by layer."""

from __future__ import annotations

from ptl_plugins.families import Family

QWEN2 = Family(
    name="qwen2",
    model_types=("qwen2",),
    window_key="max_window_layers",
    qkv_bias=True,
    output_bias=False,
    ffn_bias=False,
)
