"""The rotations are the principal directions of what the dense model's own norms give."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.slicegpt.source_weights import SourceWeights

HIDDEN, LAYERS = 32, 5
LOUD = slice(4, 16)
"""Tokens whose embedding is huge: they would rule second moments of what goes into a norm."""
FAMILIES = ["llama", "gemma2"]
NAMES = {
    "llama": ("input_layernorm", "post_attention_layernorm"),
    "gemma2": ("input_layernorm", "pre_feedforward_layernorm"),
}


def embed_loudly(dense):
    with torch.no_grad():
        dense.model.embed_tokens.weight[LOUD] *= 30


def norms_of(dense):
    """Return the dense model's norms by name, each with what it multiplies by."""
    norms = {name: each for name, each in dense.named_modules() if name.endswith("norm")}
    more = 1 if dense.config.model_type == "gemma2" else 0
    return {name: (norm, more + norm.weight.detach().double()) for name, norm in norms.items()}


@torch.no_grad()
def second_moments(pair):
    """Return the sum of n n^T over the tokens for each norm of the dense model, without padding.

    n is the norm's output without its scale; each sequence runs alone.
    """
    dense = pair.dense.double()
    moments = {}

    def hook(name, scale):
        def add(module, inputs, output):
            rows = (output.double() / scale).flatten(0, 1)
            moments[name] = moments.get(name, 0) + rows.T @ rows

        return add

    for name, (norm, scale) in norms_of(dense).items():
        norm.register_forward_hook(hook(name, scale))
    for sequence in pair.request.sequences:
        dense(torch.tensor([sequence]))
    return moments


def rotations(pair):
    """Return the rotation before each norm, read back from the checkpoint's shortcuts."""
    sliced = load_file(pair.folder / "model.safetensors")
    sliced = {name: tensor.double() for name, tensor in sliced.items()}
    dense = load_file(pair.request.source / "model.safetensors")["model.embed_tokens.weight"]
    rotation = torch.linalg.lstsq(dense.double(), sliced["model.embed_tokens.weight"]).solution
    before, within = NAMES[pair.dense.config.model_type]
    found = {f"model.layers.0.{before}": rotation}
    following = [f"model.layers.{index}.{before}" for index in range(1, LAYERS)] + ["model.norm"]
    for index, name in enumerate(following):
        layer = f"model.layers.{index}."
        rotation = rotation @ sliced[f"{layer}attention_shortcut.weight"].T
        found[layer + within] = rotation
        rotation = rotation @ sliced[f"{layer}mlp_shortcut.weight"].T
        found[name] = rotation
    return found


def branch_rotations(pair):
    """Return the basis of each branch that gemma2 normalises before it is added."""
    sliced = load_file(pair.folder / "model.safetensors")
    before, within = NAMES["gemma2"]
    streams, norms, found = rotations(pair), norms_of(pair.dense), {}
    for index in range(LAYERS):
        layer, following = f"model.layers.{index}.", f"model.layers.{index + 1}.{before}"
        behind = streams[following] if index + 1 < LAYERS else streams["model.norm"]
        for norm, half, new in (
            ("post_attention_layernorm", "attention", streams[layer + within]),
            ("post_feedforward_layernorm", "mlp", behind),
        ):
            kept = sliced[f"{layer}{half}_rotation.weight"].double()
            found[layer + norm] = (new @ kept) / norms[layer + norm][1][:, None]
    return found


def require_principal(rotation, moment):
    """Hold the rotation to eigenvectors of the moment, the greatest first."""
    seen = rotation.T @ moment @ rotation
    kept = seen.diagonal()
    largest = kept.max()
    assert (seen - kept.diag()).abs().max() < 1e-4 * largest
    assert (kept[:-1] - kept[1:]).min() > -1e-4 * largest
    assert torch.allclose(rotation.T @ rotation, torch.eye(HIDDEN).double(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_directions_are_those_of_the_first_norms_output(slice_tiny, family):
    """Of the real tokens: the sequences differ in length, and two share a padded batch."""
    pair = slice_tiny(family, hidden=HIDDEN, change=embed_loudly)
    name = "model.layers.0.input_layernorm"
    require_principal(rotations(pair)[name], second_moments(pair)[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_directions_behind_each_half_are_those_of_the_next_norms_output(slice_tiny, family):
    pair = slice_tiny(family, hidden=HIDDEN, change=embed_loudly)
    moments = second_moments(pair)
    behind = {name: each for name, each in rotations(pair).items() if ".0.input" not in name}
    assert len(behind) == 2 * LAYERS
    for name, rotation in behind.items():
        require_principal(rotation, moments[name])


def test_the_directions_of_a_branch_are_those_of_the_norm_behind_it(slice_tiny):
    pair = slice_tiny("gemma2", hidden=HIDDEN, change=embed_loudly)
    moments, branches = second_moments(pair), branch_rotations(pair)
    assert len(branches) == 2 * LAYERS
    for name, rotation in branches.items():
        require_principal(rotation, moments[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_matrix_of_a_layer_is_read_twice(slice_tiny, family, monkeypatch):
    read, names = SourceWeights._read, []

    def count(self, name):
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(SourceWeights, "_read", count)
    slice_tiny(family)
    layers = [name for name in names if name.startswith("model.layers.")]
    assert len(layers) == len(set(layers)) > 9 * LAYERS - 1
