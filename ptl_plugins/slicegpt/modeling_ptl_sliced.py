"""Model whose residual stream was sliced by PTL (SliceGPT); stands alone.

This file is copied into every sliced checkpoint: it imports nothing but torch and transformers.
A layer reads the stream x in a basis of its own; what was one residual addition is now
x @ shortcut + branch, where the shortcut turns the old basis into the next. Norms have no weight:
it is fused into the matrices behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from .configuration_ptl_sliced import PTLSlicedConfig

Rotary = tuple[torch.Tensor, torch.Tensor]


class SlicedRMSNorm(nn.Module):
    """RMS norm without weight, whose mean goes over the size before slicing."""

    def __init__(self, config: PTLSlicedConfig) -> None:
        super().__init__()
        self.size, self.eps = config.original_hidden_size, config.rms_norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` over the root of its mean square, computed in fp32 at least."""
        wide = x if x.dtype == torch.float64 else x.float()
        mean = wide.square().sum(dim=-1, keepdim=True) / self.size
        return (wide * torch.rsqrt(mean + self.eps)).to(x.dtype)


class SlicedAttention(nn.Module):
    """Attention with as many heads as before, over fewer directions."""

    def __init__(self, config: PTLSlicedConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        size, head = config.hidden_size, config.head_dim
        queries, groups = config.num_attention_heads * head, config.num_key_value_heads * head
        self.q_proj = nn.Linear(size, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(size, groups, bias=config.qkv_bias)
        self.v_proj = nn.Linear(size, groups, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, size, bias=config.output_bias)

    def forward(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Return the branch, [batch, tokens, hidden]."""
        return self.o_proj(self.heads(x, rotary, mask, cache))

    def heads(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Return what all heads gathered, [batch, tokens, heads x head size]."""
        split = (*x.shape[:-1], -1, self.config.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(x).view(split).transpose(1, 2) for p in projections)
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        mixed = attend(query, key, value, mask, self.config)
        return mixed.transpose(1, 2).reshape(*x.shape[:-1], -1)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    config: PTLSlicedConfig,
) -> torch.Tensor:
    """Return [batch, heads, queries, head size]; no mask: causal, the keys end with the queries."""
    if config.attention_softcap is None:
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and query.shape[2] > 1,
            scale=config.attention_scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = query @ key.transpose(2, 3) * config.attention_scale
    scores = config.attention_softcap * torch.tanh(scores / config.attention_softcap)
    if mask is None:
        mask = allowed_keys(query.shape[2], key.shape[2], None, None, device=query.device)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(query.dtype) @ value


def allowed_keys(
    num_queries: int,
    num_keys: int,
    window: int | None,
    padding: torch.Tensor | None,
    *,
    device: torch.device,
) -> torch.Tensor:
    """Return which keys a query sees, bool [batch or 1, 1, queries, keys].

    Args:
        num_queries: the last so many of the keys' tokens ask.
        num_keys: tokens so far.
        window: tokens that a query sees, itself included; None: all.
        padding: 1 for each of the `num_keys` tokens that is real, [batch, keys]; None: all are.
        device: where the result lies.
    """
    # compared and never subtracted: numbers of all pairs would take eight times the memory
    keys = torch.arange(num_keys, device=device)
    queries = keys[num_keys - num_queries :, None]
    allowed = (keys <= queries)[None]
    if window is not None:
        allowed = allowed & (keys > queries - window)
    if padding is not None:
        # a query that sees nothing at all would be no number, so each sees itself
        allowed = allowed & padding[:, None, :].bool() | (keys == queries)
    return allowed[:, None]


def layer_masks(
    config: PTLSlicedConfig,
    num_queries: int,
    past: int,
    padding: torch.Tensor | None,
    *,
    device: torch.device,
) -> list[torch.Tensor | None]:
    """Return each layer's mask, one tensor per window; None: plain causal attention."""
    num_keys = past + num_queries
    if padding is not None and padding.dim() != 2:
        raise ValueError(f"attention_mask has {padding.dim()} dimensions; only 2 are understood")
    if padding is not None and bool(padding.all()):
        padding = None
    made: dict[int | None, torch.Tensor | None] = {}
    for window in set(config.attention_windows):
        sees_all = window is None or window >= num_keys
        plain = padding is None and sees_all and (past == 0 or num_queries == 1)
        made[window] = (
            None if plain else allowed_keys(num_queries, num_keys, window, padding, device=device)
        )
    return [made[window] for window in config.attention_windows]


def refuse_other_outputs(config: PTLSlicedConfig, asked: Mapping[str, Any]) -> None:
    """Refuse outputs that a sliced model does not give, asked for by a call or its config.

    Raises:
        ValueError: hidden states, attention weights or a tuple are asked for.
    """
    for name, given in (("output_hidden_states", False), ("output_attentions", False),
                        ("return_dict", True)):  # fmt: skip
        value = asked.get(name)
        if value is None:
            value = getattr(config, name, given)
        if value != given:
            raise ValueError(f"a sliced model has no {name}={value}; leave {name} out")


class SlicedMLP(nn.Module):
    """Gated FFN with as many neurons as before, over fewer directions."""

    def __init__(self, config: PTLSlicedConfig) -> None:
        super().__init__()
        size, width, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(size, width, bias=bias)
        self.up_proj = nn.Linear(size, width, bias=bias)
        self.down_proj = nn.Linear(width, size, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the branch, [batch, tokens, hidden]."""
        return self.down_proj(self.neurons(x))

    def neurons(self, x: torch.Tensor) -> torch.Tensor:
        """Return the neurons' values, [batch, tokens, width]."""
        return self.act_fn(self.gate_proj(x)) * self.up_proj(x)


class SlicedDecoderLayer(nn.Module):
    """Attention and FFN, each between a shortcut's two bases."""

    def __init__(self, config: PTLSlicedConfig, layer_idx: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.norm = SlicedRMSNorm(config)
        self.self_attn = SlicedAttention(config, layer_idx)
        self.mlp = SlicedMLP(config)
        self.attention_shortcut = nn.Linear(size, size, bias=False)
        self.mlp_shortcut = nn.Linear(size, size, bias=False)
        self.branch_norms = config.branch_norms
        if config.branch_norms:  # from the branch's own basis, with the norm's weight, to the next
            self.attention_rotation = nn.Linear(size, size, bias=False)
            self.mlp_rotation = nn.Linear(size, size, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Return the stream behind the layer, in the basis of the next one."""
        branch = self.self_attn(self.norm(x), rotary, mask, cache)
        if self.branch_norms:
            branch = self.attention_rotation(self.norm(branch))
        x = self.attention_shortcut(x) + branch
        branch = self.mlp(self.norm(x))
        if self.branch_norms:
            branch = self.mlp_rotation(self.norm(branch))
        return self.mlp_shortcut(x) + branch


class PTLSlicedPreTrainedModel(PreTrainedModel):
    """What transformers has to know of the architecture."""

    config: PTLSlicedConfig
    config_class = PTLSlicedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SlicedDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True


class PTLSlicedModel(PTLSlicedPreTrainedModel):
    """The decoder without lm_head."""

    def __init__(self, config: PTLSlicedConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        indices = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(SlicedDecoderLayer(config, index) for index in indices)
        self.norm = SlicedRMSNorm(config)
        self.rotary_emb = LlamaRotaryEmbedding(cast("Any", config))
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the layers; `attention_mask` is 1 for real tokens, those in the cache included."""
        refuse_other_outputs(self.config, kwargs)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        checkpointing = self.gradient_checkpointing and self.training
        cache = None if checkpointing else self._cache(past_key_values, use_cache)
        past = 0 if cache is None else cache.get_seq_length()
        masks = layer_masks(self.config, x.shape[1], past, attention_mask, device=x.device)
        if position_ids is None:
            position_ids = torch.arange(past, past + x.shape[1], device=x.device)[None]
        rotary = self.rotary_emb(x, position_ids)
        for layer, mask in zip(self.layers, masks, strict=True):
            if checkpointing:
                x = self._gradient_checkpointing_func(layer.__call__, x, rotary, mask)
            else:
                x = layer(x, rotary, mask, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=cache)

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        if getattr(cache, "is_compileable", False):
            raise ValueError("a sliced model has no static cache; leave cache_implementation out")
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        return DynamicCache() if cache is None and wanted else cache


class PTLSlicedForCausalLM(PTLSlicedPreTrainedModel, GenerationMixin):
    """The decoder with its lm_head, which shares nothing with the embedding."""

    def __init__(self, config: PTLSlicedConfig) -> None:
        super().__init__(config)
        self.model = PTLSlicedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the lm_head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the lm_head."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits of the last `logits_to_keep` tokens (0: all), and the loss of `labels`."""
        refuse_other_outputs(self.config, kwargs)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        if (cap := self.config.logit_softcap) is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            size = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values
        )
