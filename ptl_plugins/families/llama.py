"""Llama 2, 3 and models of that shape (SmolLM2)."""

from __future__ import annotations

from ptl_plugins.families import Family

LLAMA = Family(name="llama", model_types=("llama",))
