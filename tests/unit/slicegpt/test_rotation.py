"""Rotation alone changes nothing, and slicing keeps what the calibration data need."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.slicegpt.criterion import RANDOM_DIRECTIONS, SLICEGPT
from ptl_plugins.slicegpt.layer_slicing import Slicer
from ptl_plugins.slicegpt.sliced_checkpoint import slice_checkpoint
from ptl_plugins.testing import tiny_model

HIDDEN = 32
MODELS = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("gemma2", {"tie_word_embeddings": True, "attn_logit_softcapping": 0.5}),
    ("gemma2", {"tie_word_embeddings": False, "attn_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 3, "final_logit_softcapping": 1.5}),
    ("mistral", {}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}),
]
THETA = {"rope_theta": 500.0, "factor": 4.0}
BEFORE = {"original_max_position_embeddings": 16}
ROPES = {
    "llama3": {**THETA, **BEFORE, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {**THETA, **BEFORE},
    "dynamic": THETA,
}
"""Far from plain rope at 40 tokens, of a model with 32 positions (yarn: 64)."""
PLAIN = {"rope_type": "default", "rope_theta": 500.0}
KINDS = ["full_attention", "sliding_attention", "full_attention", "full_attention",
         "sliding_attention"]  # fmt: skip


def tokens(rows, length, seed=0):
    return torch.randint(4, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def require_the_same_logits(pair):
    ids = tokens(2, 40)  # more than the window of 8
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with torch.no_grad():
        ours = pair.model(ids, attention_mask=mask).logits
        theirs = pair.dense(ids, attention_mask=mask).logits
    assert relative(ours[0], theirs[0]) < 1e-4
    assert relative(ours[1, 7:], theirs[1, 7:]) < 1e-4


@pytest.mark.parametrize(("family", "keys"), MODELS)
def test_rotation_without_slicing_keeps_the_logits(slice_tiny, family, keys):
    require_the_same_logits(slice_tiny(family, hidden=HIDDEN, **keys))


@pytest.mark.parametrize("kind", ROPES)
def test_rotation_keeps_the_logits_of_every_kind_of_rope(slice_tiny, kind):
    keys = {"rope_parameters": {"rope_type": kind, **ROPES[kind]}}
    keys["max_position_embeddings"] = 64 if kind == "yarn" else 32
    pair = slice_tiny("llama", hidden=HIDDEN, **keys)
    require_the_same_logits(pair)
    ids = tokens(1, 40)
    plain = tiny_model("llama", **{**keys, "rope_parameters": PLAIN}).eval()
    plain.load_state_dict(pair.dense.state_dict())
    with torch.no_grad():  # otherwise a rope that is not passed on would not be seen
        assert relative(plain(ids).logits, pair.dense(ids).logits) > 1e-3


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_rotation_keeps_the_logits_where_the_config_lists_each_layers_kind(slice_tiny, family):
    pair = slice_tiny(family, hidden=HIDDEN, layer_types=KINDS)
    assert pair.model.config.attention_windows == [None, 8, None, None, 8]
    require_the_same_logits(pair)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_the_rotated_weights_are_not_the_dense_ones(slice_tiny, family):
    """Otherwise the exactness above would prove nothing."""
    pair = slice_tiny(family, hidden=HIDDEN)
    dense = load_file(pair.request.source / "model.safetensors")
    ours = load_file(pair.folder / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    assert relative(ours[name], dense[name]) > 0.5
    shortcut = ours["model.layers.2.attention_shortcut.weight"]
    assert relative(shortcut, torch.eye(HIDDEN)) > 0.5


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_the_calibration_stream_is_what_the_sliced_model_computes(slice_tiny, family, monkeypatch):
    """Each block's rotation is found on activations of the blocks already sliced."""
    seen = {}
    rotation_of = Slicer._rotation

    def remember(self, moment):
        seen["last"] = rotation_of(self, moment)
        return seen["last"]

    slice_mlp = Slicer.slice_mlp

    def remember_stream(self, half, index, rotation, stream):
        seen["stream"] = stream
        return slice_mlp(self, half, index, rotation, stream)

    monkeypatch.setattr(Slicer, "_rotation", remember)
    monkeypatch.setattr(Slicer, "slice_mlp", remember_stream)
    pair = slice_tiny(family, hidden=20)
    longest = max(pair.request.sequences, key=len)
    with torch.no_grad():
        ours = pair.model.model(torch.tensor([longest])).last_hidden_state
        reduced = seen["stream"].states[0][:1] @ seen["last"].float()
        expected = pair.model.model.norm(reduced)
    assert relative(ours, expected) < 1e-4


def test_padding_does_not_count_in_the_second_moments(slice_tiny):
    pair = slice_tiny("llama")
    alone = dataclasses.replace(pair.request, out=pair.folder.with_name("alone"), batch_tokens=1)
    slice_checkpoint(alone)
    first, second = (load_file(f / "model.safetensors") for f in (pair.folder, alone.out))
    name = "model.layers.4.mlp.down_proj.weight"
    assert relative(first[name].abs(), second[name].abs()) < 1e-3  # directions have no sign


def test_principal_directions_lose_less_than_random_ones(slice_tiny, tmp_path):
    pair = slice_tiny("llama", hidden=24)
    random = dataclasses.replace(
        pair.request, out=tmp_path / "random", basis=RANDOM_DIRECTIONS.basis
    )
    slice_checkpoint(random)
    ids = torch.tensor([pair.request.sequences[3]])
    errors = []
    for folder in (pair.folder, random.out):
        model = dataclasses.replace(pair, folder=folder).model
        with torch.no_grad():
            errors.append(relative(model(ids).logits, pair.dense(ids).logits))
    assert errors[0] < 0.9 * errors[1]


def test_the_greatest_second_moment_comes_first():
    moment = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64))
    basis = SLICEGPT.basis(moment, 0)
    assert basis.abs().argmax(dim=0).tolist() == [1, 2, 0]


def test_random_directions_are_orthogonal_and_of_the_seed():
    moment = torch.zeros(6, 6, dtype=torch.float64)
    first, again, other = (RANDOM_DIRECTIONS.basis(moment, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(first.T @ first, torch.eye(6, dtype=torch.float64))
