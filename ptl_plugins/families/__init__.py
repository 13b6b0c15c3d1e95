"""Model families: where the FFN and the layers are, and which config keys count them.

A family is data, keyed by `config.model_type`, and serves live modules and checkpoint tensor
names alike. Adding one takes five facts; the remaining fields only count parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    from ptl_plugins.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Facts of one architecture.

    The five that pruning needs are `model_types`, `layers`, `ffn_inputs`, `ffn_output`, and the
    config keys (`width_key`, `depth_key`, `per_layer_keys`).
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    """Dotted path of the layer list in the model and in the checkpoint."""
    ffn_inputs: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """Linear modules of a layer whose output rows are the neurons."""
    ffn_blocks: int = 1
    """Blocks of neurons in each of them, one below the other: 2 where gate and up are fused."""
    ffn_output: str = "mlp.down_proj"
    """Linear module of a layer whose input columns are the neurons; its input is Act of Eq. 3."""
    width_key: str = "intermediate_size"
    depth_key: str = "num_hidden_layers"
    per_layer_keys: tuple[str, ...] = ("layer_types",)
    """Config lists with one entry per layer, indexed by position."""
    per_layer_defaults: Callable[[Mapping[str, Any]], Mapping[str, Sequence[Any]]] | None = None
    """Works these lists out of a `config.json` that leaves them to their defaults."""
    window_key: str | None = None
    """Config key that counts the leading layers with full attention (Qwen2)."""

    norms_per_layer: int = 2
    norms_per_head: int = 0
    """Norms of the size of one head (of q and of k) in a layer."""
    qkv_bias: bool | str = "attention_bias"
    """Whether q, k, v have biases: a fact, or the config key that says so."""
    output_bias: bool | str = "attention_bias"
    ffn_bias: bool | str = "mlp_bias"
    tied_by_default: bool = False
    """`tie_word_embeddings` where the config does not say."""


def find_family(registry: Registry, config: Mapping[str, Any], name: str | None = None) -> Family:
    """Return the family called `name`, else the one that lists the config's `model_type`.

    Raises:
        UnknownNameError: no family is called `name`.
        PTLError: no family lists the model type.
    """
    if name is not None:
        return registry.families.get(name)
    model_type = config.get("model_type")
    for _, family in registry.families.items():
        if model_type in family.model_types:
            return family
    known = sorted(t for _, f in registry.families.items() for t in f.model_types)
    raise PTLError(
        f"model_type '{model_type}' is not supported; supported: {', '.join(known)}; "
        "a plugin can add a family (docs/hooks.md)"
    )
