"""Mistral 7B, Nemo and Small 24B: a Llama without biases; one window for all layers, or none."""

from __future__ import annotations

from ptl_plugins.families import Family

MISTRAL = Family(
    name="mistral",
    model_types=("mistral",),
    window_size_key="sliding_window",
    default_window_size=4096,
    qkv_bias=False,
    output_bias=False,
    ffn_bias=False,
)
