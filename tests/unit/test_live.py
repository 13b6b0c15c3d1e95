"""What a live model is asked for, and its weights in the dtype they are stored in."""

from __future__ import annotations

import functools

import pytest
import torch

from ptl_plugins.families import find_family
from ptl_plugins.live import (
    accelerator,
    decoder,
    decoder_layers,
    evaluating,
    ffn_output,
    round_to,
    stored_weights,
    width,
)
from ptl_plugins.testing import TINY, tiny_model


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


@functools.cache
def tiny(name):
    return tiny_model(name)


@pytest.mark.parametrize("name", TINY)
def test_every_family_shows_its_layers_matrices_and_width(registry, name):
    model = tiny(name)
    family = find_family(registry, model.config.to_dict())
    assert list(decoder_layers(model, family)) == list(model.model.layers)
    for layer in model.model.layers:
        assert ffn_output(layer, family) is layer.mlp.down_proj
    assert width(model, family) == model.config.intermediate_size == 48
    assert decoder(model, family) is model.model


def test_the_width_is_that_of_the_weights_whatever_the_config_says(registry):
    model = tiny_model("llama", intermediate_size=40)
    model.config.intermediate_size = 99
    assert width(model, registry.families.get("llama")) == 40


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_inference_in_the_body_and_as_before_after_it(model, training):
    model.train(training)
    for fails in (False, True):
        try:
            with evaluating(model):
                assert not any(module.training for module in model.modules())
                assert torch.is_inference_mode_enabled()
                if fails:
                    raise KeyError
        except KeyError:
            pass
        assert all(module.training is training for module in model.modules())
        assert not torch.is_inference_mode_enabled()


class Accelerators:
    """Stands for `torch.accelerator` of a machine with one kind of device, or none."""

    def __init__(self, kind):
        self.kind = kind
        self.index = None

    def current_accelerator(self, *, check_available):
        assert check_available, "a driver without a device counts as none"
        return self.kind and torch.device(self.kind)

    def set_device_index(self, index):
        self.index = index


@pytest.mark.parametrize(
    ("kind", "rank", "expected"),
    [
        (None, None, "cpu"),
        ("mps", None, "cpu"),
        ("cuda", None, "cuda:0"),
        ("cuda", "3", "cuda:3"),
        ("xpu", "1", "xpu:1"),
    ],
)
def test_every_rank_takes_its_own_accelerator(monkeypatch, kind, rank, expected):
    machine = Accelerators(kind)
    monkeypatch.setattr(torch, "accelerator", machine)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(accelerator()) == expected
    assert machine.index == torch.device(expected).index
