"""Whether transformers 4, which EasyR1 has, reads a model as transformers 5 wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.stage_types import StageModel

NEW_TOKENIZERS = ("TokenizersBackend", "SentencePieceBackend", "PythonBackend")
"""Classes that transformers 4 does not have."""
PLAIN_THETA = 10000.0
"""The base that transformers 4 takes where a config says none."""


def transformers_problems(model: StageModel) -> Iterator[str]:
    """Yield a line for what transformers 4 would read otherwise, in silence, or not at all.

    transformers 5 writes the base and the scaling of rotary positions as `rope_parameters`, which
    transformers 4 passes over: it would train, and vLLM would serve, another model.
    """
    place = model.folder / "config.json"
    if lost := _lost_rope(model.config):
        yield (
            f"settings.home: EasyR1's transformers 4 does not read 'rope_parameters' in {place}; "
            f"write {lost} beside it"
        )
    if (name := _tokenizer_class(model.folder)) in NEW_TOKENIZERS:
        yield (
            f"settings.home: EasyR1's transformers 4 does not know the tokenizer_class '{name}' in "
            f"{model.folder / 'tokenizer_config.json'}; write PreTrainedTokenizerFast"
        )


def _lost_rope(config: Mapping[str, Any]) -> str | None:
    """Return the keys of transformers 4 that a config lacks, as JSON, or None."""
    rope = dict(config.get("rope_parameters") or {})
    theta, lost = rope.pop("rope_theta", None), {}
    if theta is not None and theta != config.get("rope_theta", PLAIN_THETA):
        lost["rope_theta"] = theta
    if rope.get("rope_type", "default") != "default" and not config.get("rope_scaling"):
        lost["rope_scaling"] = rope
    return json.dumps(lost) if lost else None


def _tokenizer_class(folder: Path) -> str | None:
    try:
        keys = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of the hub, or damaged: whoever loads it says so
        return None
    name = keys.get("tokenizer_class") if isinstance(keys, dict) else None
    return name if isinstance(name, str) else None
