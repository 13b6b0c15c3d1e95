"""Whether a model of every round's shape can be served by the stage's rollout engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.stage_types import StageModel
from verl_ext.grpo_settings import GrpoStageModel


def shape_problems(settings: GrpoStageModel, model: StageModel) -> Iterator[str]:
    """Yield a line for a sliced model, a size that does not divide, and a missing template.

    vLLM and SGLang split heads, key-value heads (or repeat them) and FFN neurons evenly.
    """
    if model.sliced:
        yield (
            "backend: the rollout cannot load a sliced model: its architecture (model_type "
            "ptl_sliced) is in the checkpoint's own code, which neither vLLM nor SGLang has and "
            "no rollout of a GRPO stage runs; remove this stage, or the phase of unit 'hidden'"
        )
        return
    parallel = settings.tensor_parallel
    heads = int(model.config.get("num_attention_heads") or 1)
    if heads % parallel:
        yield (
            f"settings.tensor_parallel: {parallel} does not divide the model's {heads} attention "
            "heads; give a divisor of it"
        )
    groups = int(model.config.get("num_key_value_heads") or heads)
    if groups % parallel and parallel % groups:
        yield (
            f"settings.tensor_parallel: {parallel} neither divides nor is a multiple of the "
            f"model's {groups} key-value heads"
        )
    if width := next((s.width for s in model.shapes if s.width % parallel), None):
        yield (
            f"settings.tensor_parallel: {parallel} does not divide the width {width} that a round "
            f"leaves; set multiple_of to a multiple of {parallel}"
        )
    if settings.chat_template is None and not has_chat_template(model.folder):
        yield (
            "settings.chat_template: the model has no chat template of its own; give one, such as "
            "plain_chat"
        )


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a checkpoint has a chat template; True where it is not here."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        return bool(json.loads(text).get("chat_template"))
    except OSError:  # a model of the hub, of which only the config was read
        return True
    except ValueError:  # damaged: whoever loads the tokenizer says so
        return True
