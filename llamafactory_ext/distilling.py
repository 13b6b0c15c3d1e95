"""LLaMA-Factory's trainer with a teacher: another loss in training, everything else as it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from llamafactory_ext.distillation_report import DistillationReport, peak_memory, reset_peak
from llamafactory_ext.launching import end_with
from llamafactory_ext.taught_stage import REPORT
from ptl_plugins.distillation.head import head_of
from ptl_plugins.distillation.loss import Sums, distillation_sums, targets_of
from ptl_plugins.distillation.teacher import load_teacher
from ptl_plugins.errors import PTLError
from ptl_plugins.types import DistillSpec

logger = logging.getLogger("ptl_plugins.distillation")


def distilling_trainer(base: type[Trainer], spec: DistillSpec, original: str) -> type[Trainer]:
    """Return a subclass of LLaMA-Factory's trainer that distils from a teacher.

    Args:
        base: the trainer.
        spec: the teacher, with a weight above 0.
        original: the model that `teacher: original` means.
    """

    class DistillingTrainer(base):  # type: ignore[misc, valid-type]
        """Loads the teacher once; `distillation_report()` tells what it cost."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            student = cast("PreTrainedModel", self.model)
            try:
                self._teacher = load_teacher(spec, original, student, device=self.args.device)
            except PTLError as error:
                end_with(error)
            self._sums = torch.zeros(3, device=self.args.device)

        def train(self, *args: Any, **kwargs: Any) -> Any:
            """Train, and print what the teacher took."""
            self._teacher.stopwatch.take()
            reset_peak(self.args.device)
            output = super().train(*args, **kwargs)
            self.distillation_report = DistillationReport(
                step=self.state.global_step,
                teacher_seconds=round(self._teacher.stopwatch.take(), 3),
                train_seconds=round(float(output.metrics.get("train_runtime", 0.0)), 3),
                teacher_bytes=self._teacher.num_bytes,
                peak_bytes=peak_memory(self.args.device),
                device=str(self.args.device),
            )
            if self.is_world_process_zero():
                self.distillation_report.write(Path(self.args.output_dir) / REPORT)
                logger.info("PTL: %s", self.distillation_report)
            return output

        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """Return the mixed loss in training; evaluation measures the cross-entropy alone."""
            if return_outputs or not model.training:
                return super().compute_loss(
                    model, inputs, return_outputs=return_outputs,
                    num_items_in_batch=num_items_in_batch,
                )  # fmt: skip
            sums = self._distilled(model, inputs)
            number = sums.divergence.new_tensor(sums.num_targets)
            self._sums += torch.stack([sums.cross_entropy, sums.divergence, number])
            return self._normalised(sums, num_items_in_batch)

        def _distilled(self, model: nn.Module, inputs: dict[str, Any]) -> Sums:
            is_target, targets = targets_of(inputs["labels"])
            rest = {name: value for name, value in inputs.items() if name != "labels"}
            states = last_states(model, cast("PreTrainedModel", self.model), rest)
            teacher = self._teacher.logits(rest, is_target, states.device)
            with self.accelerator.autocast():  # as the student's forward pass has it
                return distillation_sums(
                    head_of(cast("PreTrainedModel", self.model)),
                    states[:, :-1][is_target],
                    targets,
                    teacher,
                    weight=spec.weight,
                )

        def _normalised(self, sums: Sums, num_items_in_batch: Any) -> torch.Tensor:
            """Return the loss as the Trainer's own would be: a mean over all of a step's tokens."""
            if num_items_in_batch is None or not self.model_accepts_loss_kwargs:
                return sums.loss / max(1, sums.num_targets)
            loss: torch.Tensor = sums.loss / num_items_in_batch
            across = self.args.average_tokens_across_devices
            return loss * self.accelerator.num_processes if across else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """Add the two parts of the loss, means over this rank's tokens since the last log."""
            cross_entropy, divergence, number = self._sums.tolist()
            if "loss" in logs and number:
                logs["ptl_cross_entropy"] = round(cross_entropy / number, 4)
                logs["ptl_kl"] = round(divergence / number, 6)
                self._sums.zero_()
            super().log(logs, *args, **kwargs)

    return DistillingTrainer


def last_states(model: nn.Module, bare: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the decoder's last hidden states, [batch, length, hidden size], with their graph.

    Args:
        model: the student as the Trainer wraps it, whose forward pass DDP and DeepSpeed prepare.
        bare: the same, unwrapped.
        inputs: a batch without labels.
    """
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(output.last_hidden_state if hasattr(output, "keys") else output[0])

    handle = cast("Any", bare).get_decoder().register_forward_hook(keep)
    try:
        model(**inputs, logits_to_keep=1)  # logits of all tokens would be what chunks avoid
    finally:
        handle.remove()
    (states,) = found
    return states
