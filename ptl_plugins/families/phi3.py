"""Phi-3, Phi-3.5 and Phi-4 (mini too): gate and up in one matrix, gate rows above up rows."""

from __future__ import annotations

from ptl_plugins.families import Family

PHI3 = Family(
    name="phi3",
    model_types=("phi3",),
    ffn_inputs=("mlp.gate_up_proj",),
    ffn_blocks=2,
    window_size_key="sliding_window",
    qkv_bias=False,
    output_bias=False,
    ffn_bias=False,
)
