"""Shapes, parameters and FLOPs of a model from its config alone; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.families import Family

KINDS, SLIDING = "layer_types", "sliding_attention"
"""Config list of the attention by layer, and its word for a layer with a window."""
SLICED = "ptl_sliced"
"""`model_type` of a model whose residual stream was sliced (`ptl_plugins.slicegpt`)."""
MAX_SIZE, MAX_LAYERS = 10**9, 10_000
"""What a config may say; more would only be a way to fill the memory."""
NOT_AGAIN = (
    "the model's residual stream is sliced (SliceGPT), and PTL does not prune it further; prune "
    "first and slice last"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrices:
    """What a token is multiplied by, which `question_flops` needs beside the sizes."""

    attention: int
    """Weights of a layer's q, k, v and output projections, without biases and norms; of a sliced
    layer its shortcuts and rotations as well."""
    per_neuron: int
    """Weights of one neuron, without biases."""
    query_size: int
    """Query heads x head size: one query or one output of the attention in a layer."""
    windows: tuple[int | None, ...] | None = field(default=None, compare=False)
    """Tokens that the attention of each layer sees, the querying one included (none: all); no
    tuple at all where layers went and nobody said which. Shapes are alike without it."""
    norms: int = 2
    """Norms of the hidden size in a layer; each of them slicing turns into a square matrix."""
    output_biases: int = 0
    """Biases of the hidden size in a layer."""


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
    matrices: Matrices | None = None
    """None: made by hand, for parameters and the paper's FLOPs alone."""
    sliced_from: int | None = None
    """Hidden size before the residual stream was sliced; None: it never was."""

    @property
    def non_embedding(self) -> int:
        """Parameters of the layers and the final norm."""
        layer = self.layer_fixed + self.width * self.per_neuron
        final = 0 if self.sliced_from else self.hidden * (1 + self.norm_bias)
        return self.num_layers * layer + final

    @property
    def num_parameters(self) -> int:
        """All parameters, tied embeddings counted once."""
        return self.non_embedding + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def flops_per_token(self) -> int:
        """2 x (non-embedding weights + lm_head), the count that explains the paper's column."""
        return 2 * (self.non_embedding + self.vocabulary * self.hidden)

    def after(
        self, *, width: int, num_layers: int, kept_layers: Sequence[int] | None = None
    ) -> Geometry:
        """Return the same model with another width and depth.

        Args:
            width: neurons per layer that are left.
            num_layers: layers that are left.
            kept_layers: which layers these are, as indices into this model. Without it the
                attention windows of a shape with fewer layers are known only where all layers
                have the same one; parameters and `flops_per_token` do not depend on it.
        """
        matrices = self.matrices
        if matrices is not None:
            windows = _kept_windows(matrices.windows, num_layers, kept_layers)
            matrices = replace(matrices, windows=windows)
        return replace(self, width=width, num_layers=num_layers, matrices=matrices)

    def sliced(self, hidden: int) -> Geometry:
        """Return the same model with its residual stream sliced to `hidden` directions.

        Norms lose their weight and become square matrices, embedding and lm_head are untied.
        """
        matrices, gone = self.matrices, self.hidden - hidden
        assert matrices is not None, "sizes that were made by hand tell no matrices"
        assert self.sliced_from is None, "a sliced model is not sliced again"
        projections = matrices.attention // self.hidden * hidden
        neuron = matrices.per_neuron // self.hidden * hidden
        attention = projections + matrices.norms * hidden**2
        vectors = self.layer_fixed - matrices.attention - matrices.norms * self.hidden
        return replace(
            self,
            hidden=hidden,
            tied=False,
            layer_fixed=attention + vectors - matrices.output_biases * gone,
            per_neuron=self.per_neuron - matrices.per_neuron + neuron,
            matrices=replace(matrices, attention=attention, per_neuron=neuron),
            sliced_from=self.hidden,
        )


def _kept_windows(
    windows: tuple[int | None, ...] | None, num_layers: int, kept: Sequence[int] | None
) -> tuple[int | None, ...] | None:
    if windows is None or len(windows) == num_layers:
        return windows
    if kept is not None:
        return tuple(windows[index] for index in kept)
    return windows[:num_layers] if len(set(windows)) == 1 else None


def geometry(config: Mapping[str, Any], family: Family) -> Geometry:
    """Read the sizes of a `config.json`.

    Raises:
        PTLError: a key that every model of the family has is missing, the attention window is no
            size, or the list of the layers' attention is not as long as there are layers.
    """
    if config.get("model_type") == SLICED:
        return _sliced_geometry(config, family)
    hidden = _size(config, "hidden_size")
    norms = family.norms_per_layer * hidden * (1 + family.norm_bias)
    ffn_bias = _flag(config, family.ffn_bias)
    rows = len(family.ffn_inputs) * family.ffn_blocks
    matrices = _matrices(config, family, per_neuron=(rows + 1) * hidden)
    return Geometry(
        num_layers=_size(config, family.depth_key, MAX_LAYERS),
        width=_size(config, family.width_key),
        hidden=hidden,
        vocabulary=_size(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", family.tied_by_default)),
        layer_fixed=matrices.attention + _vectors(config, family) + norms + hidden * ffn_bias,
        per_neuron=matrices.per_neuron + rows * ffn_bias,
        norm_bias=family.norm_bias,
        matrices=matrices,
    )


def _sliced_geometry(config: Mapping[str, Any], family: Family) -> Geometry:
    """Read the sizes of a sliced model: those before, sliced; its config names its own facts."""
    facts = replace(
        family,
        qkv_bias="qkv_bias",
        output_bias="output_bias",
        ffn_bias="mlp_bias",
        window_size_key=None,
    )
    before = {**config, "model_type": None, "hidden_size": config.get("original_hidden_size")}
    sizes = geometry(before, facts).sliced(_size(config, "hidden_size"))
    assert sizes.matrices is not None
    windows = tuple(config.get("attention_windows") or (None,) * sizes.num_layers)
    return replace(sizes, matrices=replace(sizes.matrices, windows=windows))


def _matrices(config: Mapping[str, Any], family: Family, *, per_neuron: int) -> Matrices:
    heads, groups, head = _heads(config, family)
    return Matrices(
        attention=2 * (heads + groups) * head * _size(config, "hidden_size"),
        per_neuron=per_neuron,
        query_size=heads * head,
        windows=_windows(config, family),
        norms=family.norms_per_layer,
        output_biases=_flag(config, family.output_bias) + _flag(config, family.ffn_bias),
    )


def _vectors(config: Mapping[str, Any], family: Family) -> int:
    """Count what adds or scales in a layer's attention: biases, and the norms of heads."""
    heads, groups, head = _heads(config, family)
    qkv_biases = (heads + 2 * groups) * head * _flag(config, family.qkv_bias)
    output_biases = _size(config, "hidden_size") * _flag(config, family.output_bias)
    return qkv_biases + output_biases + family.norms_per_head * head


def _heads(config: Mapping[str, Any], family: Family) -> tuple[int, int, int]:
    """Return the number of query heads and of key-value heads, and the size of a head."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = _size({"num_key_value_heads": heads, **_given(config)}, "num_key_value_heads")
    usual = family.default_head_dim or max(1, hidden // heads)
    head = _size({"head_dim": usual, **_given(config)}, "head_dim")
    return heads, groups, head


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _windows(config: Mapping[str, Any], family: Family) -> tuple[int | None, ...]:
    """Return the attention window of each layer: of all, or of those that the family lists."""
    num_layers, key = _size(config, family.depth_key, MAX_LAYERS), family.window_size_key
    if key is None or config.get(key, family.default_window_size) is None:
        return (None,) * num_layers
    kinds = _kinds(config, family, num_layers)
    if SLIDING not in kinds:  # Qwen's configs have a size that they do not use
        return (None,) * num_layers
    size = _size({key: family.default_window_size, **config}, key)
    return tuple(size if kind == SLIDING else None for kind in kinds)


def _kinds(config: Mapping[str, Any], family: Family, num_layers: int) -> Sequence[Any]:
    """Return the word for each layer's attention, from the config or from its default."""
    if family.per_layer_defaults is None:  # such models do not look at the list
        return (SLIDING,) * num_layers
    kinds = config.get(KINDS)
    if kinds is None:
        kinds = family.per_layer_defaults(config)[KINDS]
    if not isinstance(kinds, list | tuple) or len(kinds) != num_layers:
        raise PTLError(
            f"config.json: {KINDS}: {kinds!r} is not a list of {num_layers} entries, one per "
            "layer; mend the model's config.json"
        )
    return kinds


def _size(config: Mapping[str, Any], key: str, most: int = MAX_SIZE) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise PTLError(f"config.json: {key}: {value!r} is not a positive whole number")
    if value > most:
        raise PTLError(f"config.json: {key}: {value} is more than {most}, which no model has")
    return value


def _flag(config: Mapping[str, Any], fact: bool | str) -> bool:
    return bool(config.get(fact, False)) if isinstance(fact, str) else fact
