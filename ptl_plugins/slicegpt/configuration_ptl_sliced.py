"""Config of a model whose residual stream was sliced by PTL (SliceGPT); stands alone.

This file is copied into every sliced checkpoint: it imports nothing but transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig


class PTLSlicedConfig(PretrainedConfig):
    """Sizes and constants of a sliced model, whatever family it was cut from.

    Keys beside the usual ones:

    - `hidden_size`: directions of the residual stream that are left;
    - `original_hidden_size`: directions that there were, over which norms still average;
    - `branch_norms`: whether attention and FFN outputs are normalised before they are added;
    - `attention_windows`: per layer the tokens that it sees, null: all;
    - `attention_scale`, `attention_softcap`, `logit_softcap`, `embedding_scale`;
    - `sliced_model_type`: the model type before.
    """

    model_type = "ptl_sliced"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 24,
        original_hidden_size: int | None = None,
        intermediate_size: int = 48,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        head_dim: int = 8,
        hidden_act: str = "silu",
        max_position_embeddings: int = 2048,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10_000.0,
        rope_scaling: dict[str, Any] | None = None,
        rope_parameters: dict[str, Any] | None = None,
        qkv_bias: bool = False,
        output_bias: bool = False,
        mlp_bias: bool = False,
        branch_norms: bool = False,
        attention_windows: list[int | None] | None = None,
        attention_scale: float | None = None,
        attention_softcap: float | None = None,
        logit_softcap: float | None = None,
        embedding_scale: float = 1.0,
        sliced_model_type: str = "llama",
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take the keys of a `config.json`; embeddings and lm_head are never tied."""
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.original_hidden_size = original_hidden_size or hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.qkv_bias, self.output_bias, self.mlp_bias = qkv_bias, output_bias, mlp_bias
        self.branch_norms = branch_norms
        self.attention_windows = attention_windows or [None] * num_hidden_layers
        self.attention_scale = head_dim**-0.5 if attention_scale is None else attention_scale
        self.attention_softcap, self.logit_softcap = attention_softcap, logit_softcap
        self.embedding_scale = embedding_scale
        self.sliced_model_type = sliced_model_type
        self.use_cache = use_cache
        self._take_rope(rope_parameters or rope_scaling or {}, rope_theta)
        super().__init__(**{**kwargs, "tie_word_embeddings": False})

    def _take_rope(self, rope: dict[str, Any], theta: float) -> None:
        """Set what transformers 4 reads (theta, scaling) and what 5 reads (parameters)."""
        kind = rope.get("rope_type", rope.get("type", "default"))
        self.rope_parameters = {"rope_theta": theta, **rope, "rope_type": kind}
        self.rope_theta = self.rope_parameters["rope_theta"]
        self.rope_scaling = None if kind == "default" else dict(self.rope_parameters)
