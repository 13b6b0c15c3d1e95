"""The texts that the live actor is profiled on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_sequences(path: Path, tokenizer: Any, *, max_length: int) -> list[list[int]]:
    """Return token ids of the texts in a JSON list, cut off, the longest first.

    Args:
        path: a JSON list of texts, or of lists of token ids.
        tokenizer: of the model.
        max_length: tokens of each.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    sequences = [
        list(entry) if isinstance(entry, list) else list(tokenizer.encode(entry))
        for entry in entries
    ]
    return sorted((ids[:max_length] for ids in sequences if ids), key=len, reverse=True)
