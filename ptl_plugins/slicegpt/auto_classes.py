"""Tells transformers the classes of sliced models, so that PTL loads them without remote code."""

from __future__ import annotations


def register_sliced_models() -> None:
    """Register config and model with the Auto classes of this process; again does nothing.

    PTL's own classes then go before the code in a checkpoint's folder, which is never run.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from ptl_plugins.slicegpt import MODEL_TYPE
    from ptl_plugins.slicegpt.configuration_ptl_sliced import PTLSlicedConfig
    from ptl_plugins.slicegpt.modeling_ptl_sliced import PTLSlicedForCausalLM, PTLSlicedModel

    AutoConfig.register(MODEL_TYPE, PTLSlicedConfig, exist_ok=True)
    AutoModel.register(PTLSlicedConfig, PTLSlicedModel, exist_ok=True)
    AutoModelForCausalLM.register(PTLSlicedConfig, PTLSlicedForCausalLM, exist_ok=True)
