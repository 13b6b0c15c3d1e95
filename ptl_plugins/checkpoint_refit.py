"""Refits the output matrices of a checkpoint, one layer at a time, while it is being cut."""

from __future__ import annotations

import os
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import safe_open

from ptl_plugins.checkpoint_surgery import NewOutputs
from ptl_plugins.families import Family
from ptl_plugins.live import accelerator
from ptl_plugins.refit import refitted
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.shards import Checkpoint
from ptl_plugins.types import PrunePlan


def refitted_outputs(
    checkpoint: Checkpoint, family: Family, plan: PrunePlan, moments: MomentFolder
) -> NewOutputs:
    """Return what gives a layer's refitted output matrix, for `prune_checkpoint`.

    The same arithmetic as on a live model, so on one device the same bits.

    Raises:
        PruneError: a layer's moments are missing, or of another model.
    """
    for layer in plan.kept_layers():
        moments.require(layer)  # before anything is written
    device = accelerator()

    @torch.inference_mode()
    def new_output(layer: int) -> NDArray[Any]:
        name = f"{family.layers}.{layer}.{family.ffn_output}.weight"
        path = checkpoint.folder / checkpoint.tensors[name].file
        with safe_open(os.fspath(path), framework="pt") as file:
            weight: torch.Tensor = file.get_tensor(name)
        removed = plan.removed_neurons[layer]
        new = refitted(weight.to(device), moments.read(layer, plan.width), removed, name=name)
        return new.to(weight.dtype).cpu().contiguous().view(torch.uint8).numpy()

    return new_output
