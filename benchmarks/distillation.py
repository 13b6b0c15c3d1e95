"""What a teacher costs: seconds per step and peak memory beside plain training.

Needs a model folder, which is student and teacher; random tokens are as dear as any:

    python benchmarks/distillation.py --model SMOLLM2

| arm | what |
| --- | --- |
| `plain` | transformers' Trainer, the cross-entropy of the texts |
| `teacher` | PTL's trainer with a teacher of weight 0.5, logits in chunks |
| `whole` | the same loss written down as it is read: whole logits of both models, in fp32 |

Every arm is a process of its own on the CPU, on the same tokens: the student in fp32 under bf16
autocast, the teacher as it is stored, AdamW. Printed are the median CPU seconds of a step (the
first one is left out), the peak of resident memory, and both over `plain`'s. Promise: the peak
of `teacher` is at most that of `plain`, the teacher's own bytes and one chunk of fp32 logits
together, and below that of `whole`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llamafactory_ext.distilling import distilling_trainer
from ptl_plugins.distillation.loss import LOGITS_PER_CHUNK
from ptl_plugins.types import DistillSpec

ARMS = ("plain", "teacher", "whole")
WEIGHT = 0.5
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one arm."""

    seconds: float
    """CPU, per step."""
    peak_bytes: int
    teacher_bytes: int


class StepTimes(TrainerCallback):
    """Notes the CPU seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._start = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds.append(time.process_time() - self._start)


class WholeLogits(Trainer):
    """The distillation loss without chunks: the logits of both models at once, in fp32."""

    teacher: PreTrainedModel

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Return the mean of both parts over the targets."""
        labels = inputs.pop("labels")[:, 1:].flatten()
        log_q = model(**inputs).logits[:, :-1].flatten(0, 1).float().log_softmax(-1)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            logits = self.teacher(**inputs).logits[:, :-1].flatten(0, 1)
            log_p = logits.float().log_softmax(-1)
        divergence = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
        cross_entropy = torch.nn.functional.nll_loss(log_q, labels, reduction="sum")
        return ((1 - WEIGHT) * cross_entropy + WEIGHT * divergence) / len(labels)


def main() -> None:
    """Run every arm, print a line each; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=2, help="sequences per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--arm", choices=ARMS, help="run this one alone, here (used internally)")
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(cost(arguments)))
        return
    costs = {arm: apart(arm) for arm in ARMS}
    for arm, each in costs.items():
        print(line(arm, each, costs["plain"]))
    raise SystemExit(0 if is_kept(costs) else 1)


def apart(arm: str) -> Cost:
    """Run an arm in a process of its own."""
    words = [sys.executable, __file__, *sys.argv[1:], "--arm", arm]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def cost(arguments: argparse.Namespace) -> dict[str, float]:
    """Train for a few steps in this process; return the fields of a `Cost`."""
    times = StepTimes()
    trainer = trainer_of(arguments, times)
    trainer.train()
    teacher = getattr(trainer, "teacher", None)
    report = getattr(trainer, "distillation_report", None)
    num_bytes = teacher.get_memory_footprint() if teacher is not None else 0
    return {
        "seconds": statistics.median(times.seconds[1:]),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "teacher_bytes": report.teacher_bytes if report else int(num_bytes),
    }


def trainer_of(arguments: argparse.Namespace, times: StepTimes) -> Trainer:
    """Return the trainer of an arm."""
    student = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    keys: dict[str, Any] = {
        "model": student,
        "args": training_arguments(arguments),
        "train_dataset": sequences(arguments, student.config.vocab_size),
        "callbacks": [times],
    }
    if arguments.arm == "teacher":
        spec = DistillSpec(teacher="original", weight=WEIGHT)
        return distilling_trainer(Trainer, spec, arguments.model)(**keys)
    if arguments.arm == "plain":
        return Trainer(**keys)
    trainer = WholeLogits(**keys)
    teacher = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    trainer.teacher = teacher.eval().requires_grad_(False)
    return trainer


def training_arguments(arguments: argparse.Namespace) -> TrainingArguments:
    """Return those of all arms."""
    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=arguments.batch,
        max_steps=arguments.steps,
        gradient_checkpointing=arguments.gradient_checkpointing,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )


def sequences(arguments: argparse.Namespace, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    """Return as many random sequences as the steps need."""
    torch.manual_seed(SEED)
    shape = (arguments.batch * arguments.steps, arguments.length)
    return [{"input_ids": ids, "labels": ids} for ids in torch.randint(vocabulary, shape)]


def line(arm: str, found: Cost, plain: Cost) -> str:
    """Return what an arm cost, and how many times the plain one's that is."""
    return (
        f"{arm:<8} {found.seconds:6.2f} s of CPU per step, {found.seconds / plain.seconds:.2f} x; "
        f"peak {found.peak_bytes / 1e9:.2f} GB, {found.peak_bytes / plain.peak_bytes:.2f} x; "
        f"teacher {found.teacher_bytes / 1e9:.2f} GB"
    )


def is_kept(costs: dict[str, Cost]) -> bool:
    """Print whether the promise is, and return it."""
    teacher, plain, whole = costs["teacher"], costs["plain"], costs["whole"]
    allowed = plain.peak_bytes + teacher.teacher_bytes + 4 * LOGITS_PER_CHUNK
    kept = teacher.peak_bytes <= min(allowed, whole.peak_bytes)
    print(f"the peak is at most {allowed / 1e9:.2f} GB, and below whole's: "
          f"{'kept' if kept else 'BROKEN'}")  # fmt: skip
    return kept


if __name__ == "__main__":
    main()
