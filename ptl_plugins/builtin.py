"""The components that PTL itself registers."""

from __future__ import annotations

from ptl_plugins.criteria.activation import ACTIVATION_MAX, ACTIVATION_MEAN
from ptl_plugins.criteria.layer_change import L2, LAST
from ptl_plugins.evaluators.task import ChainOfThought
from ptl_plugins.families.gemma2 import GEMMA2
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.families.qwen2 import QWEN2
from ptl_plugins.markers import hookimpl
from ptl_plugins.registry import Registry
from ptl_plugins.selection import Count, Fraction


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add families, criteria, selectors and evaluators."""
    for family in (LLAMA, QWEN2, GEMMA2):
        registry.families.add(family.name, family)
    registry.criteria.add("activation_max", ACTIVATION_MAX)
    registry.criteria.add("activation_mean", ACTIVATION_MEAN)
    registry.criteria.add("l2", L2)
    registry.criteria.add("last", LAST)
    registry.selectors.add("count", Count())
    registry.selectors.add("fraction", Fraction())
    registry.evaluators.add("chain_of_thought", ChainOfThought())
