"""The `config.json` of a sliced checkpoint, from the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.families import Family
from ptl_plugins.geometry import geometry
from ptl_plugins.slicegpt import MODEL_TYPE

KEPT = ("dtype", "torch_dtype", "transformers_version")
"""Keys that are copied as they are written, where they are."""
AUTO_MAP = {
    "AutoConfig": "configuration_ptl_sliced.PTLSlicedConfig",
    "AutoModel": "modeling_ptl_sliced.PTLSlicedModel",
    "AutoModelForCausalLM": "modeling_ptl_sliced.PTLSlicedForCausalLM",
}
"""Where transformers finds the classes in the checkpoint's folder."""


def sliced_config(
    config: Mapping[str, Any], family: Family, *, hidden: int, biases: Mapping[str, bool]
) -> dict[str, Any]:
    """Return the keys of the sliced model.

    Args:
        config: the original's `config.json`.
        family: of the original.
        hidden: directions of the residual stream that stay.
        biases: `qkv_bias`, `output_bias` and `mlp_bias`, as the checkpoint has them.
    """
    from transformers import AutoConfig

    facts = {key: value for key, value in config.items() if key != "model_type"}
    full = AutoConfig.for_model(family.model_types[0], **facts)
    matrices = geometry(config, family).matrices
    assert matrices is not None
    return {
        **{key: config[key] for key in KEPT if key in config},
        "architectures": ["PTLSlicedForCausalLM"],
        "auto_map": dict(AUTO_MAP),
        "model_type": MODEL_TYPE,
        "sliced_model_type": family.model_types[0],
        "hidden_size": hidden,
        "original_hidden_size": full.hidden_size,
        "tie_word_embeddings": False,
        "attention_windows": list(matrices.windows or ()),
        **_sizes(full),
        **_constants(full, family),
        **biases,
    }


def _sizes(full: Any) -> dict[str, Any]:
    heads = full.num_attention_heads
    return {
        "vocab_size": full.vocab_size,
        "intermediate_size": full.intermediate_size,
        "num_hidden_layers": full.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": full.num_key_value_heads or heads,
        "head_dim": getattr(full, "head_dim", None) or full.hidden_size // heads,
        "max_position_embeddings": full.max_position_embeddings,
        "bos_token_id": full.bos_token_id,
        "eos_token_id": full.eos_token_id,
        "pad_token_id": full.pad_token_id,
    }


def _constants(full: Any, family: Family) -> dict[str, Any]:
    rope = getattr(full, "rope_parameters", None)  # as of transformers 5
    if rope is None:
        rope = {"rope_theta": full.rope_theta, **(full.rope_scaling or {})}
    constants = {
        "hidden_act": getattr(full, "hidden_activation", None) or full.hidden_act,
        "initializer_range": full.initializer_range,
        "rms_norm_eps": full.rms_norm_eps,
        "rope_parameters": dict(rope),
    }
    if family.name != "gemma2":
        return constants
    return constants | {
        "branch_norms": True,
        "attention_scale": full.query_pre_attn_scalar**-0.5,
        "attention_softcap": full.attn_logit_softcapping,
        "logit_softcap": full.final_logit_softcapping,
        "embedding_scale": full.hidden_size**0.5,
    }
