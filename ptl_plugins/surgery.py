"""Cuts a plan out of a live model, in place: FFN rows and columns, layers, and the config.

Done before an optimizer or an engine is built: every cut weight is a new parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.live import decoder, decoder_layers, ffn_output, width
from ptl_plugins.types import PrunePlan


@torch.no_grad()
def prune_live(model: PreTrainedModel, family: Family, plan: PrunePlan) -> None:
    """Remove what `plan` names from `model` and bring its config up to date.

    Raises:
        PruneError: the plan was made for a model of another shape, or would not leave every
            layer the same width.
    """
    layers = decoder_layers(model, family)
    if (len(layers), width(model, family)) != (plan.num_layers, plan.width):
        raise PruneError(
            f"the plan is for {plan.num_layers} layers of {plan.width} neurons, the model has "
            f"{len(layers)} of {width(model, family)}; profile this model first"
        )
    _require_uniform(plan)
    for layer, removed in zip(layers, plan.removed_neurons, strict=False):
        _cut_neurons(layer, family, _kept(plan.width, removed))
    if plan.removed_layers:
        _cut_layers(model, family, _kept(plan.num_layers, plan.removed_layers))
    _update_config(model, family, plan)


def _require_uniform(plan: PrunePlan) -> None:
    """Refuse a plan, of a plugin perhaps, whose layers lose different numbers of neurons."""
    rows = plan.removed_neurons
    if rows and len(rows) != plan.num_layers:
        raise PruneError(f"the plan names {len(rows)} layers' neurons of {plan.num_layers}")
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]) or list(row) != sorted(set(row) & set(range(plan.width))):
            raise PruneError(
                f"the plan's neurons of layer {index} are not {len(rows[0])} ascending indices "
                f"below {plan.width}; every layer has to lose the same number"
            )


def _kept(size: int, removed: Sequence[int]) -> torch.Tensor:
    """Return the ascending indices below `size` that are not in `removed`."""
    keep = torch.ones(size, dtype=torch.bool)
    keep[torch.as_tensor(removed, dtype=torch.long)] = False
    return keep.nonzero().flatten()


def _cut_neurons(layer: nn.Module, family: Family, kept: torch.Tensor) -> None:
    for name in family.ffn_inputs:
        module = layer.get_submodule(name)
        assert isinstance(module, nn.Linear)
        module.weight = _sliced(module.weight, 0, kept)
        if module.bias is not None:
            module.bias = _sliced(module.bias, 0, kept)
        module.out_features = len(kept)
    output = ffn_output(layer, family)
    output.weight = _sliced(output.weight, 1, kept)
    output.in_features = len(kept)
    ffn = layer.get_submodule(family.ffn_output.rpartition(".")[0])
    if hasattr(ffn, family.width_key):
        setattr(ffn, family.width_key, len(kept))


def _sliced(parameter: torch.Tensor, dim: int, kept: torch.Tensor) -> nn.Parameter:
    data = parameter.data.index_select(dim, kept.to(parameter.device)).contiguous()
    return nn.Parameter(data, requires_grad=parameter.requires_grad)


def _cut_layers(model: PreTrainedModel, family: Family, kept: torch.Tensor) -> None:
    old = decoder_layers(model, family)
    setattr(
        decoder(model, family),
        family.layers.rpartition(".")[2],
        nn.ModuleList(old[index] for index in kept.tolist()),
    )
    for position, layer in enumerate(decoder_layers(model, family)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = position  # type: ignore[assignment]  # the KV cache slot


def _update_config(model: PreTrainedModel, family: Family, plan: PrunePlan) -> None:
    config = model.config
    setattr(config, family.width_key, plan.new_width)
    kept = _kept(plan.num_layers, plan.removed_layers).tolist()
    for key in family.per_layer_keys:
        if getattr(config, key, None):
            values = getattr(config, key)
            setattr(config, key, [values[index] for index in kept])
    if family.window_key and isinstance(getattr(config, family.window_key, None), int):
        window = getattr(config, family.window_key)
        setattr(config, family.window_key, sum(index < window for index in kept))
    setattr(config, family.depth_key, plan.new_num_layers)
