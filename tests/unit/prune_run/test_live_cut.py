"""`ptl prune` gives bit for bit the checkpoint of the live cut, in one file or several."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ptl_plugins.checkpoint import save_live
from ptl_plugins.families import find_family
from ptl_plugins.model_digest import model_digest
from ptl_plugins.provenance import FILE, how_it_was_cut, untouched
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import refit_live
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import TINY
from ptl_plugins.types import Subject

from .conftest import DEPTH, WIDTH, files, layers, neurons

FAMILIES = sorted(TINY)
CUTS = {
    "neurons": {"cuts": (neurons(8),)},
    "layers": {"cuts": (layers(2),)},
    "both": {"cuts": (layers(1), neurons(5))},
    "named layers": {"cuts": (neurons(3),), "drop_layers": (2, 0)},
}


def cut_live(ready, out, registry, plan, *, how):
    """Load the model, cut it in memory and save it, as a run in a trainer does."""
    model = AutoModelForCausalLM.from_pretrained(ready.model, dtype="auto")
    family = find_family(registry, model.config.to_dict())
    stored = model.dtype
    if how["refit"] == "ridge":
        moments = MomentFolder(path=ready.moments)
        refit_live(model, family, plan, moments, SingleProcess())
    prune_live(model, family, plan)
    parent = {"model": str(ready.model), "digest": model_digest(open_checkpoint(ready.model))}
    origin = untouched(num_layers=DEPTH, width=WIDTH).after(plan, parent, how)
    subject = Subject(family=family, model=model, stored_dtype=stored)
    save_live(subject, out, original=str(ready.model), extra={FILE: origin.to_json()})


@pytest.mark.parametrize("refit", [False, True], ids=["plain", "refit"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_checkpoint_is_bit_for_bit_the_live_cut(
    prune, profiled, registry, tmp_path, model_type, cut, refit
):
    pruned = prune(model_type, refit=refit, **CUTS[cut])
    refitted = refit and bool(pruned.plan.removed_neurons)
    live = tmp_path / "live"
    asked = CUTS[cut]["cuts"]
    if cut == "named layers":
        asked = (layers(2, "named", "named"), *asked)
    how = how_it_was_cut(asked, refit=refitted, protected=0)
    cut_live(profiled(model_type), live, registry, pruned.plan, how=how)
    assert pruned.refitted is refitted
    assert files(tmp_path / "out") == files(live)


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_a_refit_changes_the_output_matrices_and_nothing_else(prune, tmp_path, model_type):
    prune(model_type, cuts=(neurons(8),), out=tmp_path / "plain")
    prune(model_type, cuts=(neurons(8),), refit=True)
    plain, refitted = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "plain", tmp_path / "out")
    )
    changed = {name for name in plain if not torch.equal(plain[name], refitted[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(DEPTH)}


def test_weights_in_several_files_stay_in_several_files(prune, profiled, registry, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(profiled().model, dtype="auto")
    sharded = shutil.copytree(profiled().model, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = prune(cuts=(neurons(8),), refit=True)
    pruned = prune(model=str(sharded), cuts=(neurons(8),), refit=True, out=tmp_path / "out2")
    assert pruned.plan == whole.plan, "the digest does not depend on the files"
    tensors = {}
    for file in (tmp_path / "out2").glob("*.safetensors"):
        tensors.update(load_file(file))
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
