"""Which of transformers' attentions computes what a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CAP = "attn_logit_softcapping"
"""Gemma2's bound on attention scores; transformers' `sdpa`, its default, leaves it out."""
FP32 = {None, "float32"}
"""How a config names the dtype that flash attention cannot compute in; unset, it is this."""


def exact_attention(
    config: Mapping[str, Any], wanted: str | None = None, *, dtype: str | None = None
) -> str | None:
    """Return the `attn_implementation` to load a model with; None is the library's default.

    Args:
        config: the keys of its `config.json`.
        wanted: the attention of a model that it shall work beside.
        dtype: what it is loaded in; None: as it is stored.
    """
    stored = dtype or config.get("dtype") or config.get("torch_dtype")
    if wanted is not None and wanted.startswith("flash") and stored in FP32:
        wanted = None
    if config.get(CAP) is not None and wanted in (None, "sdpa"):
        return "eager"
    return wanted
