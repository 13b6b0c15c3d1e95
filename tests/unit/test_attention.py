"""A model is computed with the attention that it was trained with."""

import pytest
import torch

from ptl_plugins.attention import exact_attention
from ptl_plugins.distillation.teacher import load_beside
from ptl_plugins.live import load_checkpoint
from ptl_plugins.testing import tiny_model, write_tiny_checkpoint

CAPPED = {"attn_logit_softcapping": 50.0, "dtype": "bfloat16"}
PLAIN = {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("config", "wanted", "dtype", "given"),
    [
        (CAPPED, None, None, "eager"),
        (CAPPED, "sdpa", None, "eager"),
        (CAPPED, "eager", None, "eager"),
        (CAPPED, "flash_attention_2", None, "flash_attention_2"),
        (CAPPED, "flash_attention_2", "float32", "eager"),
        (PLAIN, None, None, None),
        (PLAIN, "sdpa", None, "sdpa"),
        (PLAIN, "flash_attention_2", "float32", None),
        ({}, "flash_attention_2", None, None),
        ({"attn_logit_softcapping": None}, "sdpa", None, "sdpa"),
    ],
)
def test_the_cap_is_kept_and_flash_attention_gets_no_fp32(config, wanted, dtype, given):
    assert exact_attention(config, wanted, dtype=dtype) == given


def logits(model):
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def test_a_capped_model_is_loaded_with_its_cap(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "model", "gemma2", attn_logit_softcapping=0.02)
    live, _ = load_checkpoint(folder)
    student = tiny_model("llama")  # loaded with sdpa, as a sliced model is
    beside = load_beside(student, str(folder), device="cpu")
    assert student.config._attn_implementation == "sdpa"
    for model in (live, beside):
        with_cap = logits(model)
        model.set_attn_implementation("sdpa")
        assert not torch.equal(with_cap, logits(model))
        model.set_attn_implementation("eager")
        assert torch.equal(with_cap, logits(model))
