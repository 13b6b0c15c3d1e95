"""The other launch modes: DDP, DeepSpeed ZeRO-2, and the explicit door without autoload."""

from __future__ import annotations

import json

import pytest
from workplace import recipe, records

pytestmark = pytest.mark.timeout(300)
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


@pytest.fixture(scope="module")
def ddp_run(workplace):
    workplace.write("ddp.yaml", recipe(output_dir="ddp"))
    workplace.run("llamafactory-cli", "train", "ddp.yaml", **TWO_RANKS)
    return workplace.folder / "ddp"


@pytest.fixture(scope="module")
def zero2_run(workplace):
    keys = recipe(output_dir="zero2", deepspeed="zero2.json", do_eval=True, eval_dataset="tiny")
    workplace.write("zero2.yaml", keys)
    workplace.run("llamafactory-cli", "train", "zero2.yaml", DS_ACCELERATOR="cpu", **TWO_RANKS)
    return workplace.folder / "zero2"


def losses(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_ddp_runs_all_rounds(ddp_run):
    assert [(r["width"], r["num_layers"]) for r in records(ddp_run)][-1] == (32, 4)


def test_zero2_runs_all_rounds(zero2_run):
    assert [(r["width"], r["num_layers"]) for r in records(zero2_run)][-1] == (32, 4)


def test_zero2_evaluates_after_the_last_round(zero2_run):
    results = json.loads((zero2_run / "eval_results.json").read_text())
    assert 0 < results["eval_loss"] < 6


def test_losses_of_ddp_and_zero2_agree(ddp_run, zero2_run):
    assert losses(zero2_run) == pytest.approx(losses(ddp_run), abs=0.02)
    assert len(losses(ddp_run)) > 6


def test_two_ranks_remove_in_round_1_what_one_process_removes(plain_run, ddp_run, zero2_run):
    digests = {records(run)[1]["plan_digest"] for run in (plain_run, ddp_run, zero2_run)}
    assert len(digests) == 1


def test_two_ranks_measure_the_original_as_one_process_does(plain_run, ddp_run):
    one, two = (records(run)[0]["recovered"]["metrics"] for run in (plain_run, ddp_run))
    assert two["num_problems"] == one["num_problems"] == 8
    assert two["cot_loss"] == pytest.approx(one["cot_loss"], rel=1e-2)


def test_the_explicit_door_needs_no_autoload(workplace, plain_run):
    workplace.write("explicit.yaml", recipe(output_dir="explicit"))
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    workplace.run("ptl", "train-llamafactory", "explicit.yaml", **off)
    weights = (workplace.folder / "explicit" / "model.safetensors").read_bytes()
    assert weights == (plain_run / "model.safetensors").read_bytes()


def test_the_explicit_door_works_under_torchrun(workplace, ddp_run):
    workplace.write("explicit2.yaml", recipe(output_dir="explicit2"))
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    workplace.run("ptl", "train-llamafactory", "explicit2.yaml", **off, **TWO_RANKS)
    assert records(workplace.folder / "explicit2")[-1]["width"] == 32


def test_without_a_section_llamafactory_trains_as_if_ptl_were_not_there(workplace):
    for name, switch in (("with", "1"), ("without", "0")):
        keys = recipe(output_dir=name, ptl=None, save_strategy="no", max_steps=3)
        workplace.write(f"{name}.yaml", keys)
        workplace.run(
            "llamafactory-cli", "train", f"{name}.yaml", TORCH_DEVICE_BACKEND_AUTOLOAD=switch
        )
    folders = [workplace.folder / name for name in ("with", "without")]
    first, second = ({p.name: p for p in folder.iterdir()} for folder in folders)
    assert first.keys() == second.keys()
    assert first["model.safetensors"].read_bytes() == second["model.safetensors"].read_bytes()
