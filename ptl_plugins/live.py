"""Access to a live model by its family's facts, and its weights in the dtype they are stored in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ptl_plugins.attention import exact_attention
from ptl_plugins.families import Family
from ptl_plugins.model_config import read_config
from ptl_plugins.types import Subject


def accelerator() -> torch.device:
    """Return this rank's accelerator, or the CPU where there is none."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or device.type == "mps":  # mps lacks float64 counts
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def decoder_layers(model: PreTrainedModel, family: Family) -> nn.ModuleList:
    """Return the list of decoder layers."""
    return cast("nn.ModuleList", model.get_submodule(family.layers))


def ffn_output(layer: nn.Module, family: Family) -> nn.Linear:
    """Return the FFN's output matrix, `down_proj`."""
    return cast("nn.Linear", layer.get_submodule(family.ffn_output))


def decoder(model: PreTrainedModel, family: Family) -> nn.Module:
    """Return the model without its lm_head."""
    return model.get_submodule(family.layers.rpartition(".")[0])


def width(model: PreTrainedModel, family: Family) -> int:
    """Return the number of FFN neurons per layer."""
    return ffn_output(decoder_layers(model, family)[0], family).in_features


def load_checkpoint(folder: Path) -> tuple[Any, Any]:
    """Return a checkpoint's model, in its own dtype on this rank's device, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ptl_plugins.slicegpt.auto_classes import register_sliced_models

    register_sliced_models()
    attention = exact_attention(read_config(str(folder)))
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.to(accelerator())
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextlib.contextmanager
def loaded(subject: Subject) -> Iterator[Subject]:
    """Yield the checkpoint of `subject` as a live model on this rank's device, then let it go.

    The live subject still tells the checkpoint's path.
    """
    assert subject.path is not None
    model, tokenizer = load_checkpoint(subject.path)
    yield replace(subject, model=model, tokenizer=tokenizer)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def stored_weights(model: PreTrainedModel, dtype: torch.dtype | None) -> Iterator[None]:
    """Hold the parameters in the dtype they are stored in while the body runs.

    Trainers keep fp32 copies of bf16 models. At a round's border those copies hold values that
    the stored dtype represents exactly (`round_to`), so the way there and back loses nothing,
    and what is profiled, measured and saved is what a later run would load.
    """
    trained = {name: p.dtype for name, p in model.named_parameters()}
    _cast(model, dict.fromkeys(trained, dtype) if dtype else trained)
    try:
        yield
    finally:
        _cast(model, trained)


@torch.no_grad()
def round_to(model: PreTrainedModel, dtype: torch.dtype | None) -> None:
    """Round every parameter to `dtype` in place, keeping the dtype it is trained in."""
    for parameter in model.parameters():
        if dtype is not None and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)


@torch.no_grad()
def _cast(model: PreTrainedModel, dtypes: dict[str, torch.dtype]) -> None:
    # parameters only: buffers such as rotary frequencies are fp32 in every checkpoint dtype
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtypes[name]:
            parameter.data = parameter.data.to(dtypes[name])


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch to eval mode and inference mode, and back: no dropout, no checkpointing, no graph."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
