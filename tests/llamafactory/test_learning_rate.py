"""`learning_rate_schedule: run`: one curve over all rounds, of parts that are not equal."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from transformers import get_scheduler
from workplace import BASE, recipe

pytestmark = pytest.mark.timeout(300)
ROUNDS = ({"unit": "neuron", "amount": 8, "rounds": 2}, {"unit": "none", "rounds": 1})
PEAK, WARMUP = 1e-3, 0.2


def one_curve(output_dir, **changes):
    """Return a recipe whose last round has half of the documents; no round is evaluated."""
    section = copy.deepcopy(BASE["ptl"])
    section |= {"schedule": list(ROUNDS), "evaluate": {}, "tokens": "final"}
    section |= {"learning_rate_schedule": "run", **changes.pop("ptl", {})}
    return recipe(output_dir=output_dir, ptl=section, warmup_ratio=WARMUP, **changes)


def logged(folder):
    """Return the learning rate of every step of every round, in order."""
    paths = sorted(folder.glob("round_*/stage_0/trainer_state.json"))
    return [
        [entry["learning_rate"] for entry in json.loads(path.read_text())["log_history"]
         if "learning_rate" in entry]
        for path in paths
    ]  # fmt: skip


def curve(kind, steps, **lengths):
    """Return transformers' own schedule of one training of so many steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    warmup = math.ceil(WARMUP * steps)
    schedule = get_scheduler(kind, optimizer, warmup, steps, scheduler_specific_kwargs=lengths)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def joined(rounds):
    return [rate for one in rounds for rate in one]


@pytest.fixture(scope="module")
def one_curve_run(workplace):
    workplace.write("one_curve.yaml", one_curve("one_curve"))
    workplace.run("llamafactory-cli", "train", "one_curve.yaml")
    return workplace.folder / "one_curve"


def test_the_last_round_has_half_of_the_documents_and_so_of_the_steps(one_curve_run):
    first, second, last = map(len, logged(one_curve_run))
    assert abs(first - second) <= 1
    assert abs(first + second - last) <= 2
    assert min(first, second) >= 3


def test_a_round_goes_on_where_the_one_before_ended(one_curve_run):
    rates = joined(logged(one_curve_run))
    assert rates == pytest.approx(curve("cosine", len(rates)), rel=1e-6)
    assert max(rates) == rates[math.ceil(WARMUP * len(rates))]


@pytest.mark.parametrize("moment", ["round_02/stage_0/trainer_log.jsonl", "round_03"])
def test_a_killed_and_resumed_run_has_the_same_rates_and_weights(workplace, one_curve_run, moment):
    name = "one_curve_killed_" + moment.partition("/")[0]
    workplace.write(f"{name}.yaml", one_curve(name))
    process = workplace.start("llamafactory-cli", "train", f"{name}.yaml")
    workplace.kill_when(process, workplace.folder / name / moment)
    workplace.run("llamafactory-cli", "train", f"{name}.yaml")
    assert logged(workplace.folder / name) == logged(one_curve_run)
    weights = (workplace.folder / name / "model.safetensors").read_bytes()
    assert weights == (one_curve_run / "model.safetensors").read_bytes()


def test_two_ranks_have_one_curve_over_their_fewer_steps(workplace, one_curve_run):
    two = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    workplace.write("one_curve_ddp.yaml", one_curve("one_curve_ddp", lr_scheduler_type="linear"))
    workplace.run("llamafactory-cli", "train", "one_curve_ddp.yaml", **two)
    rates = joined(logged(workplace.folder / "one_curve_ddp"))
    assert rates == pytest.approx(curve("linear", len(rates)), rel=1e-6)
    assert len(rates) < len(joined(logged(one_curve_run)))


def test_zero2_has_one_curve(workplace):
    two = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}
    keys = one_curve("one_curve_zero2", deepspeed="zero2.json")
    workplace.write("one_curve_zero2.yaml", keys)
    workplace.run("llamafactory-cli", "train", "one_curve_zero2.yaml", **two)
    rates = joined(logged(workplace.folder / "one_curve_zero2"))
    assert rates == pytest.approx(curve("cosine", len(rates)), rel=1e-6)
    assert len(rates) >= 6


def test_with_max_steps_every_round_takes_so_many_of_the_one_curve(workplace):
    keys = one_curve("one_curve_steps", max_steps=4, save_steps=4)
    workplace.write("one_curve_steps.yaml", keys)
    workplace.run("llamafactory-cli", "train", "one_curve_steps.yaml")
    rates = logged(workplace.folder / "one_curve_steps")
    assert [len(one) for one in rates] == [4, 4, 4]
    assert joined(rates) == pytest.approx(curve("cosine", 12), rel=1e-6)
    saved = workplace.folder / "one_curve_steps" / "round_03" / "stage_0" / "checkpoint-4"
    assert torch.load(saved / "scheduler.pt")["last_epoch"] == 12
    optimizer = torch.load(saved / "optimizer.pt")
    steps = {int(state["step"]) for state in optimizer["state"].values()}
    assert steps == {4}, "the optimizer's state begins afresh in each round all the same"


def test_by_default_a_round_of_another_length_has_a_curve_of_its_own_length(workplace):
    """LLaMA-Factory notes the lengths of this schedule once and would keep those of round 1."""
    own = {"learning_rate_schedule": "round"}
    keys = one_curve("own_curves", ptl=own, lr_scheduler_type="warmup_stable_decay")
    workplace.write("own_curves.yaml", keys)
    workplace.run("llamafactory-cli", "train", "own_curves.yaml")
    found = logged(workplace.folder / "own_curves")
    assert len({len(rates) for rates in found}) > 1
    for rates in found:
        left = len(rates) - math.ceil(WARMUP * len(rates))
        lengths = {"num_decay_steps": left - left // 3}
        expected = curve("warmup_stable_decay", len(rates), **lengths)
        assert rates == pytest.approx(expected, rel=1e-6)


def test_by_default_every_round_has_a_curve_of_its_own(plain_run):
    for rates in logged(plain_run):
        assert rates[0] == 0
        assert max(rates) == pytest.approx(PEAK, rel=0.2)
        assert rates[-1] < PEAK / 3
