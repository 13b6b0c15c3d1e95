"""The components that PTL itself registers."""

from __future__ import annotations

from ptl_plugins.criteria.activation import ACTIVATION_MAX, ACTIVATION_MEAN, ACTIVATION_RMS
from ptl_plugins.criteria.layer_change import BLOCK_INFLUENCE, L2, LAST
from ptl_plugins.criteria.output_change import (
    OUTPUT_CHANGE,
    OUTPUT_CHANGE_MAX,
    OUTPUT_CHANGE_MEAN,
)
from ptl_plugins.criteria.released import RELEASED, RELEASED_BY_INDEX
from ptl_plugins.criteria.taylor import TAYLOR
from ptl_plugins.criteria.wanda_structured import WANDA_STRUCTURED
from ptl_plugins.evaluators.divergence_task import Divergence
from ptl_plugins.evaluators.lm_eval import LmEval
from ptl_plugins.evaluators.task import ChainOfThought
from ptl_plugins.families.gemma2 import GEMMA2
from ptl_plugins.families.gemma3 import GEMMA3
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.families.mistral import MISTRAL
from ptl_plugins.families.phi3 import PHI3
from ptl_plugins.families.qwen2 import QWEN2
from ptl_plugins.families.qwen3 import QWEN3
from ptl_plugins.markers import hookimpl
from ptl_plugins.registry import Registry
from ptl_plugins.selectors import FLOPS, PARAMETERS, Count, Fraction, Threshold
from ptl_plugins.speed.task import Speed


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add families, criteria, selectors and evaluators."""
    for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3):
        registry.families.add(family.name, family)
    registry.criteria.add("activation_max", ACTIVATION_MAX)
    registry.criteria.add("activation_mean", ACTIVATION_MEAN)
    registry.criteria.add("activation_rms", ACTIVATION_RMS)
    registry.criteria.add("output_change", OUTPUT_CHANGE)
    registry.criteria.add("output_change_max", OUTPUT_CHANGE_MAX)
    registry.criteria.add("output_change_mean", OUTPUT_CHANGE_MEAN)
    registry.criteria.add("released", RELEASED)
    registry.criteria.add("released_by_index", RELEASED_BY_INDEX)
    registry.criteria.add("wanda_structured", WANDA_STRUCTURED)
    registry.criteria.add("taylor", TAYLOR)
    registry.criteria.add("l2", L2)
    registry.criteria.add("block_influence", BLOCK_INFLUENCE)
    registry.criteria.add("last", LAST)
    registry.selectors.add("count", Count())
    registry.selectors.add("fraction", Fraction())
    registry.selectors.add("threshold", Threshold())
    registry.selectors.add(PARAMETERS.name, PARAMETERS)
    registry.selectors.add(FLOPS.name, FLOPS)
    registry.evaluators.add("chain_of_thought", ChainOfThought())
    registry.evaluators.add("divergence", Divergence())
    registry.evaluators.add("lm_eval", LmEval())
    registry.evaluators.add("speed", Speed())
