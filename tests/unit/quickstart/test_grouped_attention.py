"""The attention used for decoding gives what transformers' own gives."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ptl_plugins.quickstart.grouped_attention import NAME, register


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def logits(model, attention, inputs, mask):
    """Prompt at once, then two single tokens on the cache."""
    model.set_attn_implementation(attention)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    pieces, cache = [], None
    for start, stop in [(0, 5), (5, 6), (6, 7)]:
        output = model(
            input_ids=inputs[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        pieces.append(output.logits)
    return torch.cat(pieces, dim=1)


@torch.inference_mode()
def test_logits_equal_eager_attention_with_cache_and_left_padding(model):
    inputs = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(inputs)
    mask[0, :3] = 0
    assert register() == NAME
    expected, got = (logits(model, name, inputs, mask) for name in ("eager", NAME))
    assert model.config._attn_implementation == NAME
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
