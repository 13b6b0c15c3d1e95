"""Model families: where the FFN and the layers are, and which config keys count them.

A family is data, keyed by `config.model_type`, and serves live modules and checkpoint tensor
names alike. Adding one takes five facts; the remaining fields only count parameters and FLOPs,
but for `needs_bos`, which evaluation obeys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError
from ptl_plugins.families.refused import why_refused

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
    """Config lists with one entry per layer, indexed by position; a config may lack them."""
    per_layer_defaults: Callable[[Mapping[str, Any]], Mapping[str, Sequence[Any]]] | None = None
    """Works these lists out of a `config.json` that leaves them to their defaults."""
    window_key: str | None = None
    """Config key that counts the leading layers with full attention (Qwen2)."""
    window_size_key: str | None = None
    """Config key of the attention window's size; none: no layer has a window. With
    `per_layer_defaults` the layers that `layer_types` calls `sliding_attention` have it, without
    it all layers."""
    default_window_size: int | None = None
    """The size where the config does not say; `null` in the config is no window."""
    needs_bos: bool = False
    """Whether a text has to begin with a BOS; without a BOS in front its answers are noise."""

    default_head_dim: int | None = None
    """`head_dim` where the config does not say; none: the hidden size shared out to the heads."""
    norms_per_layer: int = 2
    norms_per_head: int = 0
    """Norms of the size of one head (of q and of k) in a layer."""
    norm_bias: bool = False
    """Whether norms have a bias beside their weight, as LayerNorm has."""
    qkv_bias: bool | str = "attention_bias"
    """Whether q, k, v have biases: a fact, or the config key that says so."""
    output_bias: bool | str = "attention_bias"
    ffn_bias: bool | str = "mlp_bias"
    tied_by_default: bool = False
    """`tie_word_embeddings` where the config does not say."""


def find_family(registry: Registry, config: Mapping[str, Any], name: str | None = None) -> Family:
    """Return the family called `name`, else the one that lists the config's `model_type`.

    A `name` is believed, because fine-tunes invent model types, unless the config shows that
    the layers are not what any family says, or are those of another family.

    Raises:
        UnknownNameError: no family is called `name`.
        PTLError: the model cannot be pruned, no family lists its type, or `name` does not fit.
    """
    named = None if name is None else registry.families.get(name)
    families = [family for _, family in registry.families.items()]
    supported = sorted(t for family in families for t in family.model_types)
    if refusal := why_refused(config, supported):
        raise PTLError(refusal)
    # a sliced model is as its family was, where its layers are and in what it needs
    model_type = config.get("sliced_model_type") or config.get("model_type")
    listed = next((family for family in families if model_type in family.model_types), None)
    if named is not None:
        if model_type not in named.model_types:
            _require_same_ffn(named, listed, config)
        return named
    if listed is None:
        raise PTLError(
            f"model_type '{model_type}' is not supported; supported: {', '.join(supported)}; "
            "a plugin can add a family (docs/families.md)"
        )
    return listed


def _require_same_ffn(named: Family, listed: Family | None, config: Mapping[str, Any]) -> None:
    """Refuse a named family whose FFN is elsewhere than in the family of the model type."""
    if listed is not None and _ffn_facts(named) != _ffn_facts(listed):
        raise PTLError(
            f"family '{named.name}' does not fit model_type '{config['model_type']}': its FFN is "
            f"{_ffn_facts(named)}, the model's is {_ffn_facts(listed)}; leave family out, or give "
            f"'{listed.name}'"
        )


def _ffn_facts(family: Family) -> str:
    """Say where a family's FFN is, for comparison and for the reader."""
    blocks = f" in {family.ffn_blocks} blocks" if family.ffn_blocks > 1 else ""
    inputs = ", ".join(family.ffn_inputs)
    return f"{inputs}{blocks} and {family.ffn_output} of {family.layers}, width {family.width_key}"
