"""Distillation through the real LLaMA-Factory: both doors, and two ranks of DDP and ZeRO-2."""

from __future__ import annotations

import copy
import json
import shutil
import sys

import pytest
from workplace import BASE, recipe, records

pytestmark = pytest.mark.timeout(300)
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
SCHEDULE = [{"unit": "neuron", "amount": 8, "rounds": 2}]
STAGE = (
    "use_cpu", "bf16", "cutoff_len", "per_device_train_batch_size", "learning_rate",
    "gradient_accumulation_steps",
)  # fmt: skip


def taught(output_dir, distill, schedule=SCHEDULE, **changes):
    keys = recipe(output_dir=output_dir, **changes)
    keys["ptl"] = {**copy.deepcopy(BASE["ptl"]), "schedule": schedule}
    if distill is not None:
        keys["ptl"]["distill"] = distill
    return keys


def train(workplace, name, distill, env=None, **changes):
    workplace.write(f"{name}.yaml", taught(name, distill, **changes))
    workplace.run("llamafactory-cli", "train", f"{name}.yaml", **(env or {}))
    return workplace.folder / name


def history(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


def events(folder, name):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.fixture(scope="module")
def untaught(workplace):
    return train(workplace, "untaught", None)


@pytest.fixture(scope="module")
def half(workplace):
    return train(workplace, "half", {"teacher": "original", "weight": 0.5})


def test_weight_0_is_plain_training_bit_for_bit(workplace, untaught):
    folder = train(workplace, "zero", {"teacher": "original", "weight": 0})
    for number in (1, 2):
        path = f"round_0{number}/model/model.safetensors"
        assert (folder / path).read_bytes() == (untaught / path).read_bytes()
    assert [e["loss"] for e in history(folder)] == [e["loss"] for e in history(untaught)]
    assert not events(folder, "distillation")


def test_a_weight_of_almost_0_has_the_losses_of_plain_training(workplace, untaught):
    """The chunked path sums the same tokens and divides by the same number."""
    folder = train(workplace, "almost", {"teacher": "original", "weight": 1e-9})
    found, expected = ([e["loss"] for e in history(run)] for run in (folder, untaught))
    assert len(found) > 20
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_student_that_is_its_teacher_does_not_move(workplace):
    schedule = [{"unit": "none"}]
    distill = {"teacher": "original", "weight": 1.0, "dtype": "float32"}
    folder = train(workplace, "same", distill, schedule=schedule, bf16=None)
    found = history(folder)
    assert all(e["loss"] == e["ptl_kl"] == e["grad_norm"] == 0 for e in found)
    assert len(found) > 10


def test_every_round_tells_what_its_teacher_took(half):
    found = events(half, "distillation")
    assert [event["round"] for event in found] == [1, 2]
    for event in found:
        assert 0 < event["teacher_seconds"] < event["train_seconds"]
        assert event["teacher_bytes"] > 2 * records(half)[0]["num_parameters"] - 1
        assert event["peak_bytes"] > 100_000_000


def test_the_loss_is_the_weighted_mean_of_both_parts(half):
    entry = history(half)[-1]
    mixed = (entry["ptl_cross_entropy"] + entry["ptl_kl"]) / 2
    # the Trainer divides by all labels, also the first of each 64, which is no target
    assert entry["loss"] == pytest.approx(mixed * 63 / 64, rel=1e-3)
    assert entry["ptl_kl"] > 1e-3


def test_two_ranks_of_ddp_and_of_zero2_train_alike(workplace):
    distill = {"teacher": "original", "weight": 0.5}
    ddp = train(workplace, "ddp_taught", distill, TWO_RANKS)
    zero2 = train(
        workplace, "zero2_taught", distill, {**TWO_RANKS, "DS_ACCELERATOR": "cpu"},
        deepspeed="zero2.json",
    )  # fmt: skip
    one, two = ([e["loss"] for e in history(run)] for run in (ddp, zero2))
    assert len(one) > 10
    assert two == pytest.approx(one, abs=0.01)
    assert history(ddp)[-1]["ptl_kl"] > 1e-3


@pytest.fixture(scope="module")
def other_door(workplace):
    settings = {key: BASE[key] for key in STAGE} | {"max_steps": 3}
    keys = {
        "model": "model",
        "run_dir": "staged",
        "data": {"path": "data/tiny.jsonl"},
        "calibration": {"num_sequences": 8, "max_length": 64},
        "schedule": SCHEDULE,
        "distill": {"teacher": "original", "weight": 0.5},
        "recover": [{"backend": "llamafactory", "settings": settings}],
    }
    workplace.write("staged.yaml", keys)
    return workplace.run("ptl", "run", "staged.yaml"), keys


def test_a_stage_of_ptl_run_has_the_runs_original_as_its_teacher(workplace, other_door):
    done, _ = other_door
    folder = workplace.folder / "staged"
    assert (done.stdout + done.stderr).count("PTL: the teacher took") == 2  # once a round
    found = [e for e in events(folder, "training_step") if "teacher_seconds" in e]
    assert [(e["round"], e["stage"], e["step"]) for e in found] == [(1, 0, 3), (2, 0, 3)]
    text = (folder / "round_02" / "stage_0" / "train.yaml").read_text()
    assert f"teacher: {(workplace.folder / 'model').resolve()}" in text
    log = (folder / "round_02" / "stage_0" / "train.log").read_text()
    assert "ptl_kl" in log


def test_an_interpreter_without_ptl_is_refused_before_anything_is_written(
    workplace, other_door, tmp_path
):
    python = tmp_path / "python"
    answer = '{"ptl": false, "llamafactory": "0.9.5"}'
    python.write_text(
        f"""#!/bin/sh
case "$2" in
*llamafactory_ext.distilling*) echo '{answer}' ;;
*) exec {sys.executable} "$@" ;;
esac
"""
    )
    python.chmod(0o755)
    _, keys = other_door
    keys = {**copy.deepcopy(keys), "run_dir": str(tmp_path / "out")}
    keys["recover"][0]["python"] = str(python)
    workplace.write("without.yaml", keys)
    done = workplace.run("ptl", "run", "without.yaml", code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"recover.0.python: {python} has no PTL that can distil" in done.stderr
    assert not (tmp_path / "out").exists()


REFUSED = {
    "no such folder": (
        {"teacher": "./nowhere", "weight": 0.5},
        "ptl.distill.teacher: model './nowhere': no such folder",
    ),
    "no weight": ({"teacher": "original"}, "ptl.distill.weight"),
    "a weight above 1": ({"teacher": "original", "weight": 1.5}, "ptl.distill.weight: 1.5"),
    "no teacher": ({"weight": 0.5}, "ptl.distill.teacher"),
    "an unknown dtype": (
        {"teacher": "original", "weight": 0.5, "dtype": "int8"}, "ptl.distill.dtype",
    ),
    "another vocabulary": (
        {"teacher": "./larger", "weight": 0.5},
        "ptl.distill.teacher: './larger' has a vocabulary of 300, the model one of 256",
    ),
    "another tokenizer": (
        {"teacher": "./renamed", "weight": 0.5},
        "ptl.distill.teacher: './renamed' has another tokenizer than the model",
    ),
    "no tokenizer": (
        {"teacher": "./bare", "weight": 0.5},
        "ptl.distill.teacher: './bare' has no tokenizer to compare",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def teachers(workplace):
    """Copies of the model with one thing changed in each."""
    for name in ("larger", "renamed", "bare"):
        shutil.copytree(workplace.folder / "model", workplace.folder / name)
    change(workplace.folder / "larger" / "config.json", lambda keys: keys.update(vocab_size=300))
    change(workplace.folder / "renamed" / "tokenizer.json", swap_two_tokens)
    (workplace.folder / "bare" / "tokenizer.json").unlink()


def change(path, how):
    keys = json.loads(path.read_text(encoding="utf-8"))
    how(keys)
    path.write_text(json.dumps(keys), encoding="utf-8")


def swap_two_tokens(keys):
    vocabulary = keys["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.usefixtures("teachers")
def test_a_teacher_that_cannot_teach_is_refused_in_one_line(workplace, why):
    distill, line = REFUSED[why]
    workplace.write("refused.yaml", taught("refused", distill))
    done = workplace.run("ptl", "validate", "refused.yaml", code=2)
    text = (done.stdout + done.stderr).strip().splitlines()
    assert [each for each in text if line in each], text
    assert sum("ptl.distill" in each for each in text) == 1


def test_a_key_that_changes_the_loss_is_refused(workplace):
    keys = taught("refused", {"teacher": "original", "weight": 0.5}, label_smoothing_factor=0.1)
    workplace.write("smooth.yaml", keys)
    done = workplace.run("ptl", "validate", "smooth.yaml", code=2)
    assert "label_smoothing_factor: 0.1: does not go with a teacher" in done.stdout + done.stderr
