"""Gemma2: four norms per layer, alternating sliding and full attention, GELU, tied embeddings."""

from __future__ import annotations

from ptl_plugins.families import Family

GEMMA2 = Family(
    name="gemma2",
    model_types=("gemma2",),
    norms_per_layer=4,
    ffn_bias=False,
    tied_by_default=True,
)
