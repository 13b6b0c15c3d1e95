"""What has to be undone in a Trainer between two `train()` calls on a model of another shape."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from typing import Any, cast

from transformers import Trainer
from transformers.integrations.integration_utils import TensorBoardCallback


def give_each_round_its_tensorboard_run(trainer: Trainer) -> None:
    """Make TensorBoard log below the round's own folder: steps count from 0 in each round.

    The callback remembers its first folder; one given by TENSORBOARD_LOGGING_DIR is kept.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and not os.getenv("TENSORBOARD_LOGGING_DIR"):
            cast("Any", callback).logging_dir = None


def release_engine(trainer: Trainer) -> None:
    """Take engine, optimizer, schedule and gradients off the model."""
    wrapped: Any = trainer.model_wrapped
    if trainer.is_deepspeed_enabled and hasattr(wrapped, "destroy"):
        wrapped.destroy()
    trainer.deepspeed = None
    trainer.accelerator.free_memory()
    trainer.accelerator._models.clear()
    trainer.model_wrapped = cast("Any", trainer.model)
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    for parameter in cast("Any", trainer.model).parameters():
        parameter.grad = None
    gc.collect()


@contextlib.contextmanager
def bare_evaluation(trainer: Trainer) -> Iterator[None]:
    """Let a Trainer whose DeepSpeed engine was released evaluate the bare model.

    The Trainer would build an inference engine, which ZeRO-2 does not have.
    """
    enabled = trainer.is_deepspeed_enabled
    trainer.is_deepspeed_enabled = enabled and trainer.deepspeed is not None
    try:
        yield
    finally:
        trainer.is_deepspeed_enabled = enabled
