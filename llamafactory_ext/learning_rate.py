"""One learning-rate schedule over the steps of all rounds (`learning_rate_schedule: run`).

Each round is a training of its own, whose schedule would begin afresh. Here its schedule is that
of the whole run, moved on by the steps of the rounds before; the optimizer's state begins afresh
all the same, as the parameters are others.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    from transformers import TrainingArguments

OF_ONE_TRAINING = ("reduce_lr_on_plateau", "greedy")
"""Values of `lr_scheduler_type` that follow a training's own losses and not its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSpan:
    """Which of a run's optimizer steps one round takes."""

    before: int
    """Steps of all rounds before it."""
    here: int
    total: int
    """Steps of all rounds of the run."""


def step_span(parts: Sequence[Sized], round_index: int, args: TrainingArguments) -> StepSpan:
    """Return the span of a round; it is the same whether the run was resumed or not.

    Args:
        parts: the rows of each round of the run.
        round_index: from 1.
        args: batch, accumulation, ranks, and epochs or steps of a round.
    """
    steps = [num_steps(len(rows), args) for rows in parts]
    before = sum(steps[: round_index - 1])
    return StepSpan(before=before, here=steps[round_index - 1], total=sum(steps))


def num_steps(num_rows: int, args: TrainingArguments) -> int:
    """Return the optimizer steps of a training on `num_rows` rows, as transformers counts them."""
    if args.max_steps > 0:
        return int(args.max_steps)
    per_rank, ranks = args.train_batch_size, args.world_size
    batches = -(-num_rows // (per_rank * ranks))
    if args.dataloader_drop_last:
        batches = num_rows // per_rank // ranks
    steps: int = max(1, -(-batches // args.gradient_accumulation_steps))
    return math.ceil(float(args.num_train_epochs) * steps)


def require_steps(span: StepSpan, num_training_steps: int) -> None:
    """Hold the round's steps against those that the trainer is about to take.

    Raises:
        PTLError: they differ, and so would the steps of the other rounds.
    """
    if span.here != num_training_steps:
        raise PTLError(
            f"ptl.learning_rate_schedule: 'run': the round takes {num_training_steps} steps, but "
            f"its rows, batch sizes and epochs make {span.here}, so the steps of the other rounds "
            "are not known; set max_steps, or use 'round'"
        )


def move_on(scheduler: Any, steps: int) -> None:
    """Let a schedule of torch take `steps` steps before its optimizer takes the first one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)`", UserWarning)
        for _ in range(steps):
            scheduler.step()


@contextlib.contextmanager
def kept_scheduler_settings(args: TrainingArguments) -> Iterator[None]:
    """Take back what LLaMA-Factory adds to `lr_scheduler_kwargs` for one schedule.

    It writes the lengths of `warmup_stable_decay` there and would keep them for the next round,
    which may have another number of steps.
    """
    given = copy.deepcopy(args.lr_scheduler_kwargs)
    try:
        yield
    finally:
        args.lr_scheduler_kwargs = given


def schedule_problems(keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the keys of a yaml whose schedule spans all rounds."""
    kind = keys.get("lr_scheduler_type")
    if kind not in OF_ONE_TRAINING:
        return []
    return [
        f"lr_scheduler_type: {kind!r}: follows the losses of one training and cannot span all "
        "rounds; choose another, or set ptl.learning_rate_schedule to 'round'"
    ]
