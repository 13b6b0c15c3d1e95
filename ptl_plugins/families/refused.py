"""Says why a model cannot be pruned, whatever family is named for it.

Judged by what the `config.json` shows, so that architectures nobody has heard of are refused
for the right reason too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Config keys that count the experts of a layer."""
MOE_TYPES = ("mixtral", "dbrx", "deepseek_v2", "deepseek_v3", "llama4_text", "gpt_oss")
"""Mixtures of experts by model type, beside those that end in `moe`."""
PART_KEYS = (
    "text_config", "llm_config", "language_config", "thinker_config", "vision_config",
    "audio_config",
)  # fmt: skip
"""Config keys that hold the config of a part of a multimodal model."""
WIDTH_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "ffn_multipliers")
"""Config keys of the FFN's width, which some architectures give layer by layer."""


def why_refused(config: Mapping[str, Any], supported: Collection[str]) -> str | None:
    """Return one line that says why no family fits the model, or None where one may.

    Args:
        config: the model's `config.json`.
        supported: the model types of all families.
    """
    return _multimodal(config, supported) or _experts(config) or _widths(config)


def _multimodal(config: Mapping[str, Any], supported: Collection[str]) -> str | None:
    parts = {key: config[key] for key in PART_KEYS if isinstance(config.get(key), Mapping)}
    if not parts:
        return None
    text = parts.get("text_config", {})
    if within := why_refused(text, supported):
        return within
    advice = "PTL prunes text models only"
    if (text_type := text.get("model_type")) in supported:
        advice = (
            "only its text model can be pruned: save that by itself, as a checkpoint of a "
            f"...ForCausalLM class with model_type '{text_type}' (docs/families.md)"
        )
    found = next(iter(parts))
    return f"model_type '{config.get('model_type')}' is multimodal (config has {found}); {advice}"


def _experts(config: Mapping[str, Any]) -> str | None:
    model_type = str(config.get("model_type"))
    counts = {key: config[key] for key in EXPERT_KEYS if config.get(key) is not None}
    shown = [f" ({key}: {number})" for key, number in counts.items() if _is_many(number)]
    by_name = model_type in MOE_TYPES or model_type.endswith("moe")
    if not shown and (counts or not by_name):
        return None
    return (
        f"model_type '{model_type}' is a mixture of experts{''.join(shown)}: its layers have many "
        "FFNs, and PTL prunes models with one FFN per layer; give a dense model"
    )


def _is_many(number: object) -> bool:
    # some configs count the experts layer by layer
    return isinstance(number, list) or (isinstance(number, int) and number > 1)


def _widths(config: Mapping[str, Any]) -> str | None:
    for key in WIDTH_KEYS:
        if isinstance(config.get(key), list):
            return (
                f"model_type '{config.get('model_type')}' gives {key} as a list, a width for every "
                "layer; PTL prunes models whose layers all have the same width"
            )
    return None
