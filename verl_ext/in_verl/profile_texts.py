"""What the live actor is profiled on, and which actors can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHARDED = ("fsdp", "fsdp2")
"""The strategies whose ranks each run the whole model over sequences of their own."""


def read_sequences(path: Path, tokenizer: Any, *, max_length: int) -> list[list[int]]:
    """Return token ids of the texts in a JSON list, cut off, the longest first.

    Args:
        path: a JSON list of texts, or of lists of token ids.
        tokenizer: of the model.
        max_length: tokens of each.

    Raises:
        ValueError: there is nothing to read.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    sequences = [
        list(entry) if isinstance(entry, list) else list(tokenizer.encode(entry))
        for entry in entries
    ]
    if not any(sequences):
        raise ValueError(f"{path}: has no text to profile the actor on")
    return sorted((ids[:max_length] for ids in sequences if ids), key=len, reverse=True)


def profile_problem(config: Any) -> str | None:
    """Return why the profile that a verl config asks for cannot be had, in one line, or None."""
    if "profile_file" not in (config.get("ptl") or {}):
        return None
    actor = config.actor_rollout_ref.actor
    if actor.strategy not in SHARDED:
        return (
            f"settings.profile: an actor of strategy '{actor.strategy}' cannot be profiled, those "
            f"of {' and '.join(SHARDED)} can; turn it off, or change the strategy"
        )
    # verl takes the larger of its old key and its new one
    size = "ulysses_sequence_parallel_size"
    ranks = max(actor.get(size, 1), actor.fsdp_config[size])
    if ranks > 1:
        return (
            f"settings.profile: an actor whose sequences are cut among {ranks} GPUs ({size}) "
            "cannot be profiled; turn it off, or set 1"
        )
    return None
