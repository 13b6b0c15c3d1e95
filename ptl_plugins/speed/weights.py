"""The bytes of weights that a token costs: what bounds decoding at batch 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsBound:
    """Bytes that one decoded token reads of either model.

    Where memory bandwidth alone decides, as it does for large models at batch 1, decoding cannot
    be faster by more than `ratio`.
    """

    model_bytes: int
    baseline_bytes: int

    @property
    def ratio(self) -> float:
        """Bytes of the baseline over those of the model."""
        return self.baseline_bytes / self.model_bytes


def bytes_per_token(model: Any) -> int:
    """Return the bytes of weights that one decoded token reads.

    Every weight is read once, the lm_head among them. Of the table of embeddings one row is
    read, so it counts only where it is the lm_head as well (tied).
    """
    total = sum(weight.numel() * weight.element_size() for weight in _weights(model))
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is None or head.weight is not table:
        total -= table.numel() * table.element_size()
    return total


def num_parameters(model: Any) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(weight.numel() for weight in _weights(model))


def without_weights(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Return the model of a checkpoint folder on the meta device: shapes, and no memory.

    Args:
        folder: has a `config.json`.
        dtype: of the weights; None: the config's.

    Raises:
        PTLError: transformers cannot build a causal language model from the config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ptl_plugins.slicegpt.auto_classes import register_sliced_models

    register_sliced_models()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype or config.dtype or torch.float32
            )
    except (OSError, ValueError, KeyError) as error:
        raise PTLError(f"{folder}: is no model to generate with ({one_line(error)})") from error
    model.tie_weights()
    return model


def one_line(error: BaseException) -> str:
    """Return the first line of what a library says, under 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _weights(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()  # a shared one comes once
