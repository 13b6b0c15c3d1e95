"""Cuts a plan out of a live model, in place: FFN rows and columns, layers, and the config.

Done before an optimizer or an engine is built: every cut weight is a new parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.live import decoder, decoder_layers, ffn_output, width
from ptl_plugins.plan_check import require_uniform
from ptl_plugins.types import PrunePlan


@torch.no_grad()
def prune_live(model: PreTrainedModel, family: Family, plan: PrunePlan) -> None:
    """Remove what `plan` names from `model` and bring its config up to date.

    Raises:
        PruneError: the plan was made for a model of another shape, or would not leave every
            layer the same width, or a layer is not what the family says; nothing is cut then.
    """
    layers = decoder_layers(model, family)
    if (len(layers), width(model, family)) != (plan.num_layers, plan.width):
        raise PruneError(
            f"the plan is for {plan.num_layers} layers of {plan.width} neurons, the model has "
            f"{len(layers)} of {width(model, family)}; profile this model first"
        )
    require_uniform(plan)
    for index, layer in enumerate(layers):
        _require_fits(layer, index, family, plan.width)
    for index, layer in enumerate(layers if plan.removed_neurons else []):
        _cut_neurons(layer, family, torch.tensor(plan.kept_neurons(index)))
    if plan.removed_layers:
        _cut_layers(model, family, plan.kept_layers())
    _update_config(model, family, plan)


def _require_fits(layer: nn.Module, index: int, family: Family, size: int) -> None:
    """Refuse a layer whose matrices are not of the size that the family's facts promise."""
    promised = {name: (0, family.ffn_blocks * size, "rows") for name in family.ffn_inputs}
    promised[family.ffn_output] = (1, size, "columns")
    for name, (dim, number, lines) in promised.items():
        module = layer.get_submodule(name)
        shape = list(module.weight.shape) if isinstance(module, nn.Linear) else []
        if not shape or shape[dim] != number:
            raise PruneError(
                f"family '{family.name}': {name} of layer {index} is {type(module).__name__} "
                f"{shape}, not a Linear with {number} {lines} for {size} neurons; give the "
                "model's own family"
            )


def _cut_neurons(layer: nn.Module, family: Family, kept: torch.Tensor) -> None:
    output = ffn_output(layer, family)
    blocks = range(family.ffn_blocks)
    rows = torch.cat([kept + block * output.in_features for block in blocks])
    for name in family.ffn_inputs:
        module = cast("nn.Linear", layer.get_submodule(name))
        module.weight = _sliced(module.weight, 0, rows)
        if module.bias is not None:
            module.bias = _sliced(module.bias, 0, rows)
        module.out_features = len(rows)
    output.weight = _sliced(output.weight, 1, kept)
    output.in_features = len(kept)
    ffn = layer.get_submodule(family.ffn_output.rpartition(".")[0])
    if hasattr(ffn, family.width_key):
        setattr(ffn, family.width_key, len(kept))


def _sliced(parameter: torch.Tensor, dim: int, kept: torch.Tensor) -> nn.Parameter:
    data = parameter.data.index_select(dim, kept.to(parameter.device)).contiguous()
    return nn.Parameter(data, requires_grad=parameter.requires_grad)


def _cut_layers(model: PreTrainedModel, family: Family, kept: Sequence[int]) -> None:
    old = decoder_layers(model, family)
    setattr(
        decoder(model, family),
        family.layers.rpartition(".")[2],
        nn.ModuleList(old[index] for index in kept),
    )
    for position, layer in enumerate(decoder_layers(model, family)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = position  # type: ignore[assignment]  # the KV cache slot


def _update_config(model: PreTrainedModel, family: Family, plan: PrunePlan) -> None:
    config = model.config
    setattr(config, family.width_key, plan.new_width)
    kept = plan.kept_layers()
    for key in family.per_layer_keys:
        if getattr(config, key, None):
            values = getattr(config, key)
            setattr(config, key, [values[index] for index in kept])
    if family.window_key and isinstance(getattr(config, family.window_key, None), int):
        window = getattr(config, family.window_key)
        setattr(config, family.window_key, sum(index < window for index in kept))
    setattr(config, family.depth_key, plan.new_num_layers)
