"""The `config.json` of a pruned checkpoint, from the original's and the plan alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.types import PrunePlan


def pruned_config(config: Mapping[str, Any], family: Family, plan: PrunePlan) -> dict[str, Any]:
    """Return `config` with the plan's width and depth, and its lists by layer without the gone.

    A list that the original leaves to its default is spelled out once layers go: the default of
    a shallower model is another one. Every other key stays.

    Raises:
        PruneError: the config is of another width or depth than the plan, or a list by layer is
            of another length.
    """
    _require_size(config, family.width_key, plan.width, "neurons")
    _require_size(config, family.depth_key, plan.num_layers, "layers")
    pruned = {**config, family.width_key: plan.new_width, family.depth_key: plan.new_num_layers}
    gone, kept = plan.removed_layers, plan.kept_layers()
    facts = _with_defaults(config, family)
    for key in filter(lambda key: key in config or gone, family.per_layer_keys):
        if facts.get(key):
            pruned[key] = _entries(key, facts[key], kept, plan.num_layers)
    window = facts.get(family.window_key) if family.window_key else None
    if family.window_key and isinstance(window, int) and (family.window_key in config or gone):
        pruned[family.window_key] = sum(index < window for index in kept)
    return pruned


def _with_defaults(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the config, with the family's defaults where it has nothing (or null)."""
    defaults = family.per_layer_defaults(config) if family.per_layer_defaults else {}
    return {**defaults, **{key: value for key, value in config.items() if value is not None}}


def _require_size(config: Mapping[str, Any], key: str, planned: int, what: str) -> None:
    if config.get(key) != planned:
        raise PruneError(
            f"config.json: {key}: is {config.get(key)!r}, but the plan is for {planned} {what}; "
            "profile this model first"
        )


def _entries(key: str, values: Any, kept: list[int], num_layers: int) -> list[Any]:
    if not isinstance(values, list | tuple) or len(values) != num_layers:
        raise PruneError(
            f"config.json: {key}: {values!r} is not a list of {num_layers} entries, one per layer; "
            "mend the model's config.json"
        )
    return [values[index] for index in kept]
