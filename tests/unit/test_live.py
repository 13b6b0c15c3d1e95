"""The weights of a live model in the dtype they are stored in."""

from __future__ import annotations

import pytest
import torch

from ptl_plugins.live import round_to, stored_weights
from ptl_plugins.testing import tiny_model


@pytest.fixture
def model():
    return tiny_model("llama")


def dtypes(model):
    return {p.dtype for p in model.parameters()}


def test_parameters_are_stored_in_the_body_and_trained_after_it(model):
    parameters = list(model.parameters())
    with stored_weights(model, torch.bfloat16):
        assert dtypes(model) == {torch.bfloat16}
    assert dtypes(model) == {torch.float32}
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_the_dtype_is_back_when_the_body_fails(model):
    with pytest.raises(ZeroDivisionError), stored_weights(model, torch.bfloat16):
        1 / 0  # noqa: B018
    assert dtypes(model) == {torch.float32}


def test_rounded_weights_survive_the_way_there_and_back(model):
    round_to(model, torch.bfloat16)
    assert dtypes(model) == {torch.float32}
    before = [p.clone() for p in model.parameters()]
    with stored_weights(model, torch.bfloat16):
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_rounding_loses_what_the_stored_dtype_cannot_hold(model):
    before = model.lm_head.weight.clone()
    round_to(model, torch.bfloat16)
    assert torch.equal(model.lm_head.weight, before.bfloat16().float())
    assert not torch.equal(model.lm_head.weight, before)


def test_without_a_stored_dtype_nothing_is_touched(model):
    before = [p.clone() for p in model.parameters()]
    round_to(model, None)
    with stored_weights(model, None):
        assert dtypes(model) == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_buffers_and_ties_stay_as_they_are(model):
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    assert buffers
    with stored_weights(model, torch.bfloat16):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, buffers[name])
            assert buffer.dtype == buffers[name].dtype
