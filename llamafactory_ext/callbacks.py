"""Trainer callbacks of PTL: the round's facts in every log, and a check of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RoundFacts(TrainerCallback):
    """Adds `ptl_round`, `ptl_width`, `ptl_layers` and `ptl_parameters` to the framework's logs.

    It has to stand before the reporters (TensorBoard, W&B, SwanLab), which see what it added.
    """

    def __init__(self, facts: Mapping[str, float]) -> None:
        self.facts = {f"ptl_{name}": value for name, value in facts.items()}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the facts to `logs`, which all later callbacks share."""
        if logs is not None:
            logs.update(self.facts)
            if state is not None and state.log_history:  # the entry was made before the call
                state.log_history[-1].update(self.facts)


class OptimizerCoversModel(TrainerCallback):
    """Asserts that a round's optimizer trains exactly the parameters of the pruned model."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Compare the identities of the parameters; a difference is a fault of ours."""
        assert model is not None
        held = {id(parameter) for parameter in optimized_parameters(optimizer)}
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        if held != trained:
            raise AssertionError(
                f"the optimizer holds {len(held - trained)} parameters that are not the model's "
                f"and lacks {len(trained - held)} of its {len(trained)}"
            )


def optimized_parameters(optimizer: Any) -> Iterable[nn.Parameter]:
    """Yield the model parameters behind an optimizer, plain, accelerated or DeepSpeed ZeRO-1/2."""
    while hasattr(optimizer, "optimizer") and not hasattr(optimizer, "bit16_groups"):
        optimizer = optimizer.optimizer
    if hasattr(optimizer, "bit16_groups"):  # ZeRO: param_groups hold flat fp32 partitions
        for group in optimizer.bit16_groups:
            yield from group
    else:
        for group in optimizer.param_groups:
            yield from group["params"]
