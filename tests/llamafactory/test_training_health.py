"""Trainings of the real LLaMA-Factory that diverge: stopped early, marked, taken in half steps."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml
from transformers import TrainerControl
from workplace import recipe, records

from llamafactory_ext.backend import LlamaFactory
from llamafactory_ext.health_callback import StopsWhenDiverged
from llamafactory_ext.history import logged_steps, steps_of
from llamafactory_ext.reload import ModelLoader
from ptl_plugins.durable import digest_of_files
from ptl_plugins.errors import RunFolderError
from ptl_plugins.health import HealthSpec, HealthWatch, Step
from ptl_plugins.stage_types import TrainingReporter

SICK = """
import torch
from ptl_plugins import hookimpl
from transformers import TrainerCallback

class Sick(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

@hookimpl
def ptl_trainer_callbacks(ctx):
    tried = list(ctx.run.path.glob("failed_*")) or (ctx.folder.parent / "cured").exists()
    return [Sick()] if ctx.spec.index == 2 and not tried else []
"""
PTL = {
    "calibration": {"num_sequences": 8},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
    "health": {"steps": 2},
}
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


def entry(**keys):
    return {"step": 1, **keys}


def test_a_torn_log_of_a_stage_is_one_line(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"loss"', encoding="utf-8")
    with pytest.raises(
        RunFolderError, match=r"is damaged .*; delete .*, and the stage trains again"
    ):
        logged_steps(tmp_path / "trainer_state.json")
    assert logged_steps(tmp_path / "none.json") == []


def test_the_trainers_entries_are_read_and_others_passed_over():
    entries = [
        entry(loss=2.0, grad_norm=1.5, learning_rate=1e-5),
        entry(eval_loss=1.0),
        entry(loss="3.5"),
        entry(train_loss=2.5, train_runtime=1.0),
    ]
    assert steps_of(entries) == [
        Step(step=1, loss=2.0, gradient_norm=1.5),
        Step(step=1, loss=3.5),
        Step(step=1, mean_loss=2.5),
    ]
    assert isinstance(LlamaFactory(), TrainingReporter)


def test_the_callback_asks_to_stop_once_and_has_nan_logged_as_it_is():
    callback = StopsWhenDiverged(HealthWatch(HealthSpec(), vocabulary=256))
    args = SimpleNamespace(logging_nan_inf_filter=True)
    state = SimpleNamespace(global_step=1, is_world_process_zero=False)
    control = TrainerControl()
    callback.on_train_begin(args, state, control)
    assert args.logging_nan_inf_filter is False
    callback.on_log(args, state, control, logs={"loss": 2.0})
    callback.on_log(args, state, control, logs=None)
    assert not control.should_training_stop
    callback.on_log(args, state, control, logs={"loss": float("nan")})
    assert control.should_training_stop


def test_a_model_is_loaded_again_as_it_was_and_the_arguments_stay():
    calls = []

    def load_model(tokenizer, model_args, *rest):
        calls.append((model_args.model_name_or_path, rest))
        return len(calls)

    loader, arguments = ModelLoader(), SimpleNamespace(model_name_or_path="model", dtype="bf16")
    assert loader.remembering(load_model)("tokenizer", arguments, "finetuning", True) == 1
    assert loader.load("out/round_01/model") == 2
    assert calls == [("model", ("finetuning", True)), ("out/round_01/model", ("finetuning", True))]
    assert arguments.model_name_or_path == "model"


@pytest.fixture(scope="module")
def sick(workplace):
    """A plugin whose second round has weights of NaN, until a try of it was set aside."""
    site = workplace.folder / "sick_site"
    info = site / "sick-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "sick.py").write_text(SICK)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ptl]\nsick = sick\n")
    return {"PYTHONPATH": str(site)}


def train(workplace, name, code=0, ptl=None, env=None, **keys):
    keys = {"output_dir": name, "max_steps": 6, "ptl": {**PTL, **(ptl or {})}, **keys}
    workplace.write(f"{name}.yaml", recipe(**keys))
    return workplace.run("llamafactory-cli", "train", f"{name}.yaml", code=code, **(env or {}))


def steps_taken(stage):
    return json.loads((stage / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learning_rate_that_explodes_ends_the_round_early_and_marks_it(workplace):
    original = digest_of_files(workplace.folder / "model", "*")
    wild = {"learning_rate": 1e6, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    done = train(workplace, "wild", code=2, **wild)
    line = next(line for line in done.stderr.splitlines() if line.startswith("ptl: "))
    assert line.startswith("ptl: wild/round_01/stage_0: the training diverged: the ")
    assert line.endswith(
        "; try a smaller step of pruning, a lower learning rate, or 'on_divergence: "
        "retry_with_half_step'"
    )
    assert "Traceback" not in done.stderr
    folder = workplace.folder / "wild" / "round_01"
    assert steps_taken(folder / "stage_0") <= 4, "of 6"
    failed = json.loads((folder / "failed.json").read_text(encoding="utf-8"))
    assert (failed["round"], failed["last_good"]) == (1, "model")
    assert not (folder / "record.json").exists()
    assert not (folder / "model").exists()
    assert digest_of_files(workplace.folder / "model", "*") == original


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_round_that_diverged_is_taken_in_half_steps_in_the_same_process(workplace, sick):
    """And ends in the bytes of the same command given again, in a process that loads anew."""
    retry = {"on_divergence": "retry_with_half_step"}
    train(workplace, "at_once", ptl=retry, env=sick)
    at_once = workplace.folder / "at_once"
    assert [record["width"] for record in records(at_once)] == [48, 40, 36, 32]
    aside = at_once / "failed_01_round_02"
    assert steps_taken(aside / "stage_0") == 4
    assert steps_taken(at_once / "round_02" / "stage_0") == 6
    assert not list(aside.rglob("*.safetensors"))

    train(workplace, "again", code=2, env=sick)
    again = workplace.folder / "again"
    good = json.loads((again / "round_01" / "record.json").read_text(encoding="utf-8"))
    assert digest_of_files(again / "round_01" / "model", "*.safetensors") == good["model_digest"]
    train(workplace, "again", ptl=retry, env=sick)
    for name in ("round_03/model/model.safetensors", "model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (at_once / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_ranks_stop_and_go_on_together(workplace, sick):
    retry = {"on_divergence": "retry_with_half_step"}
    train(workplace, "ranks", ptl=retry, env={**sick, **TWO_RANKS})
    folder = workplace.folder / "ranks"
    assert [record["width"] for record in records(folder)] == [48, 40, 36, 32]


def test_a_schedule_over_the_run_does_not_go_with_more_rounds(workplace):
    keys = {"on_divergence": "retry_with_half_step", "learning_rate_schedule": "run"}
    done = train(workplace, "refused", code=2, ptl=keys)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("ptl: "))
    assert line.startswith("ptl: refused.yaml: ptl.on_divergence: 'retry_with_half_step': adds")
    assert not (workplace.folder / "refused").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("autoload", ["1", "0"])
def test_a_stage_of_ptl_run_is_watched_where_ptl_can_enter_and_judged_in_any_case(
    workplace, autoload
):
    settings = {
        "use_cpu": True, "bf16": True, "cutoff_len": 64, "per_device_train_batch_size": 1,
        "learning_rate": 1e6, "lr_scheduler_type": "constant", "max_steps": 8,
    }  # fmt: skip
    keys = {
        "model": "model", "run_dir": f"stage_{autoload}", "data": {"path": "data/tiny.jsonl"},
        "calibration": {"num_sequences": 8, "max_length": 64},
        "schedule": [{"unit": "neuron", "amount": 8}],
        "recover": [{"backend": "llamafactory", "settings": settings}],
    }  # fmt: skip
    name = f"stage_{autoload}.yaml"
    (workplace.folder / name).write_text(yaml.safe_dump(keys), encoding="utf-8")
    done = workplace.run("ptl", "run", name, code=2, PTL_AUTOLOAD=autoload)
    folder = workplace.folder / f"stage_{autoload}" / "round_01"
    assert f"ptl: stage_{autoload}/round_01/stage_0: the training diverged: the " in done.stderr
    assert (folder / "failed.json").is_file()
    taken = steps_taken(folder / "stage_0" / "trained")
    assert taken < 8 if autoload == "1" else taken == 8
