"""The steps of rounds that are not yet trained, and schedules that are moved on by them."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llamafactory.train.trainer_utils import create_custom_scheduler
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler

from llamafactory_ext.learning_rate import (
    OF_ONE_TRAINING,
    StepSpan,
    kept_scheduler_settings,
    move_on,
    num_steps,
    require_steps,
    schedule_problems,
    step_span,
)
from ptl_plugins.errors import PTLError

KINDS = [kind.value for kind in SchedulerType if kind.value not in OF_ONE_TRAINING]
NEEDED = {
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 15},
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Make transformers' arguments of a training on the CPU."""
    folder = str(tmp_path_factory.mktemp("arguments"))
    return functools.partial(TrainingArguments, output_dir=folder, use_cpu=True, report_to="none")


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 200),
    batch=st.integers(1, 9),
    accumulation=st.integers(1, 9),
    epochs=st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0]),
    drops=st.booleans(),
    most=st.sampled_from([-1, 7]),
)
def test_the_steps_are_those_that_transformers_counts(
    arguments, rows, batch, accumulation, epochs, drops, most
):
    args = arguments(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        dataloader_drop_last=drops,
        max_steps=most,
    )
    if drops and rows < batch:
        return  # transformers trains on nothing there
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=args, train_dataset=[{}] * rows)
    *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    assert num_steps(rows, args) == steps


def facts(**changes):
    facts = {
        "max_steps": -1, "train_batch_size": 2, "world_size": 3, "dataloader_drop_last": False,
        "gradient_accumulation_steps": 4, "num_train_epochs": 1.0,
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})


def test_ranks_share_the_rows():
    assert [num_steps(rows, facts()) for rows in (1, 24, 25, 49)] == [1, 1, 2, 3]
    assert [num_steps(rows, facts(dataloader_drop_last=True)) for rows in (29, 30)] == [1, 2]


def test_a_rounds_span_stands_behind_those_before_it():
    parts = [range(24), range(24, 72), range(72, 100)]
    spans = [step_span(parts, index, facts()) for index in (1, 2, 3)]
    assert [(s.before, s.here, s.total) for s in spans] == [(0, 1, 5), (1, 2, 5), (3, 2, 5)]


def test_steps_that_come_out_otherwise_end_the_run_in_one_line():
    require_steps(StepSpan(before=3, here=2, total=5), 2)
    with pytest.raises(PTLError) as raised:
        require_steps(StepSpan(before=3, here=2, total=5), 4)
    (line,) = str(raised.value).splitlines()
    assert line.startswith("ptl.learning_rate_schedule: 'run': the round takes 4 steps, but ")
    assert "make 2" in line


def rates(kind, steps, *, before=0):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    kwargs = NEEDED.get(kind)
    schedule = get_scheduler(kind, optimizer, 5, 30, scheduler_specific_kwargs=kwargs)
    move_on(schedule, before)
    found = []
    for _ in range(steps):
        assert schedule.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 1, 13])
def test_a_schedule_that_is_moved_on_goes_on_as_the_whole_one_without_a_warning(kind, before):
    assert rates(kind, 30 - before, before=before) == rates(kind, 30)[before:]


@pytest.mark.parametrize("given_kwargs", [None, {}, {"decay_type": "cosine"}])
def test_a_rounds_schedule_does_not_leave_its_lengths_to_the_next(arguments, given_kwargs):
    args = arguments(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=given_kwargs)
    before = dict(args.lr_scheduler_kwargs or {})
    for steps in (30, 60):
        with kept_scheduler_settings(args):
            create_custom_scheduler(args, steps)
            assert args.lr_scheduler_kwargs["num_stable_steps"] == steps // 3
        assert (args.lr_scheduler_kwargs or {}) == before


def test_schedules_that_follow_losses_are_named():
    assert schedule_problems({"lr_scheduler_type": "cosine"}) == schedule_problems({}) == []
    (line,) = schedule_problems({"lr_scheduler_type": "greedy"})
    assert line.startswith("lr_scheduler_type: 'greedy': follows the losses of one training")
