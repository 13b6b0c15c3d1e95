"""The refit of a checkpoint's output matrices: right bytes, one layer at a time, checked first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ptl_plugins import checkpoint_refit
from ptl_plugins.checkpoint_refit import refitted_outputs
from ptl_plugins.errors import PruneError
from ptl_plugins.families import find_family
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import refitted
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.testing import tiny_model
from ptl_plugins.types import PrunePlan

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROWS = tuple(tuple(range(i, i + 6)) for i in range(5))


def plan_of(rows=ROWS, layers=()):
    return PrunePlan(
        num_layers=5,
        width=48,
        removed_neurons=rows,
        removed_layers=layers,
        criteria={},
        scores_digest="",
    )


@pytest.fixture(params=DTYPES, ids=str)
def folder(request, tmp_path):
    return saved(tmp_path, request.param)


def saved(tmp_path, dtype, **keys):
    tiny_model("llama", dtype=dtype).save_pretrained(tmp_path / "model", **keys)
    return tmp_path / "model"


@pytest.fixture
def moments(tmp_path):
    """Second moments of random activations, by layer."""
    folder = MomentFolder(path=tmp_path / "moments", about={"model_digest": "m"})
    rng = torch.Generator().manual_seed(0)
    signals = [torch.randn(60, 48, generator=rng) for _ in range(5)]
    folder.write({str(i): x.T @ x for i, x in enumerate(signals)}, SingleProcess())
    return folder


@pytest.fixture
def outputs(registry, moments):
    def make(folder, plan, digest="m"):
        checkpoint = open_checkpoint(folder)
        family = find_family(registry, checkpoint.config)
        folder = MomentFolder(path=moments.path, about={"model_digest": digest})
        return refitted_outputs(checkpoint, family, plan, folder)

    return make


def weights(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return [tensors[f"model.layers.{i}.mlp.down_proj.weight"] for i in range(5)]


def test_each_matrix_is_the_refitted_one_in_the_stored_dtypes_bytes(folder, outputs, moments):
    new_output = outputs(folder, plan_of())
    for layer, weight in enumerate(weights(folder)):
        expected = refitted(weight, moments.read(layer, 48), ROWS[layer]).to(weight.dtype)
        matrix = new_output(layer)
        assert matrix.tobytes() == expected.contiguous().view(torch.uint8).numpy().tobytes()
        assert matrix.nbytes == 32 * 42 * weight.element_size()
        plain = np.delete(weight.float().numpy(), ROWS[layer], axis=1)
        assert not np.allclose(expected.float().numpy(), plain, rtol=1e-2), "more than the cut"


def test_the_rest_stands_in_for_what_goes(tmp_path, outputs, moments):
    folder = saved(tmp_path, torch.float32)
    new_output = outputs(folder, plan_of())
    rng = torch.Generator().manual_seed(0)
    for layer, weight in enumerate(weights(folder)):
        signal = torch.randn(60, 48, generator=rng)  # what the moments are of
        keep = [i for i in range(48) if i not in ROWS[layer]]
        new = torch.tensor(new_output(layer)).view(torch.float32).reshape(32, 42)
        wanted = signal @ weight.T
        refit, plain = (signal[:, keep] @ w.T - wanted for w in (new, weight[:, keep]))
        assert refit.norm() < 0.8 * plain.norm()


def test_matrices_are_found_in_whichever_file_they_are(tmp_path, outputs):
    whole = outputs(saved(tmp_path / "a", torch.bfloat16), plan_of())
    parts = outputs(saved(tmp_path / "b", torch.bfloat16, max_shard_size="20KB"), plan_of())
    assert len(list((tmp_path / "b" / "model").glob("*.safetensors"))) > 2
    for layer in range(5):
        assert whole(layer).tobytes() == parts(layer).tobytes()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "no such second moment"),
        (lambda path: path.write_bytes(b"x" * 90), "cannot be read as a second moment"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "holds no 'second_moment'"),
    ],
)
def test_every_layer_that_stays_is_looked_at_before_anything_is_done(
    tmp_path, outputs, moments, damage, told
):
    folder = saved(tmp_path, torch.bfloat16)
    damage(moments.file(4))
    with pytest.raises(PruneError, match=rf"layer_004.safetensors: {told}"):
        outputs(folder, plan_of())
    outputs(folder, plan_of(layers=(4,)))


def test_moments_of_another_model_are_refused_at_once(tmp_path, outputs):
    folder = saved(tmp_path, torch.bfloat16)
    with pytest.raises(PruneError, match="made from another model"):
        outputs(folder, plan_of(), digest="another")


def test_the_accelerator_does_the_work(tmp_path, outputs, monkeypatch):
    """`meta` stands for it: nothing can be read back from there."""
    monkeypatch.setattr(checkpoint_refit, "accelerator", lambda: torch.device("meta"))
    new_output = outputs(saved(tmp_path, torch.bfloat16), plan_of())
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        new_output(0)
