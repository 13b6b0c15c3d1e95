"""Another checkpoint in the place of the model that a Trainer holds, in the same process."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedModel, Trainer


@dataclass(kw_only=True)
class ModelLoader:
    """Loads checkpoints as LLaMA-Factory loaded the first one: its dtype, its patches."""

    _load: Callable[[str], Any] | None = field(default=None)

    def remembering(self, load_model: Callable[..., Any]) -> Callable[..., Any]:
        """Return LLaMA-Factory's `load_model`, whose call this object can repeat."""

        def load(tokenizer: Any, model_args: Any, *args: Any, **kwargs: Any) -> Any:
            def again(folder: str) -> Any:
                other = copy.copy(model_args)
                other.model_name_or_path = folder
                return load_model(tokenizer, other, *args, **kwargs)

            self._load = again
            return load_model(tokenizer, model_args, *args, **kwargs)

        return load

    def load(self, folder: str) -> Any:
        """Return the checkpoint `folder`, or model of the hub, as a model to train."""
        assert self._load is not None, "LLaMA-Factory did not load its model through the seam"
        return self._load(folder)


def put_in_place(trainer: Trainer, load: Callable[[], Any]) -> None:
    """Free the trainer's model, whose engine is released, and give it the one that `load` makes."""
    for parameter in cast("Any", trainer.model).parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)  # others may hold on to the model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    model = load()
    model.config.use_cache = trainer.args.use_cache  # as the Trainer sets it when it is made
    trainer.model = trainer.model_wrapped = model
    trainer.callback_handler.model = model


@torch.no_grad()
def not_finite(model: PreTrainedModel) -> str | None:
    """Return which parameter of a model is not finite, or None."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"'{name}' is not finite"
    return None
