"""Shapes, parameters and FLOPs of a model from its config alone; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.families import Family


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The sizes that decide parameters and FLOPs."""

    num_layers: int
    width: int
    """FFN neurons per layer."""
    hidden: int
    vocabulary: int
    tied: bool
    layer_fixed: int
    """Parameters of a layer that are not neurons: attention, norms, output bias of the FFN."""
    per_neuron: int
    """Parameters of one neuron: its rows, its column, its biases."""
    norm_bias: bool = False
    """Whether the final norm has a bias beside its weight."""

    @property
    def non_embedding(self) -> int:
        """Parameters of the layers and the final norm."""
        layer = self.layer_fixed + self.width * self.per_neuron
        return self.num_layers * layer + self.hidden * (1 + self.norm_bias)

    @property
    def num_parameters(self) -> int:
        """All parameters, tied embeddings counted once."""
        return self.non_embedding + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def flops_per_token(self) -> int:
        """2 x (non-embedding weights + lm_head), the count that explains the paper's column."""
        return 2 * (self.non_embedding + self.vocabulary * self.hidden)

    def after(self, *, width: int, num_layers: int) -> Geometry:
        """Return the same model with another width and depth."""
        return replace(self, width=width, num_layers=num_layers)


def geometry(config: Mapping[str, Any], family: Family) -> Geometry:
    """Read the sizes of a `config.json`.

    Raises:
        PTLError: a key that every model of the family has is missing.
    """
    hidden = _size(config, "hidden_size")
    norms = family.norms_per_layer * hidden * (1 + family.norm_bias)
    ffn_bias = _flag(config, family.ffn_bias)
    rows = len(family.ffn_inputs) * family.ffn_blocks
    return Geometry(
        num_layers=_size(config, family.depth_key),
        width=_size(config, family.width_key),
        hidden=hidden,
        vocabulary=_size(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", family.tied_by_default)),
        layer_fixed=_attention(config, family) + norms + hidden * ffn_bias,
        per_neuron=(rows + 1) * hidden + rows * ffn_bias,
        norm_bias=family.norm_bias,
    )


def _attention(config: Mapping[str, Any], family: Family) -> int:
    """Count the parameters of a layer's attention: q, k, v, output, and the norms of heads."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or family.default_head_dim or hidden // heads
    qkv = (heads + 2 * groups) * head
    weights = qkv * hidden + heads * head * hidden + family.norms_per_head * head
    biases = qkv * _flag(config, family.qkv_bias) + hidden * _flag(config, family.output_bias)
    return weights + biases


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise PTLError(f"config.json: {key}: {value!r} is not a positive whole number")
    return value


def _flag(config: Mapping[str, Any], fact: bool | str) -> bool:
    return bool(config.get(fact, False)) if isinstance(fact, str) else fact
