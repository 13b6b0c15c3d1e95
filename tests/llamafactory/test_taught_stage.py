"""What a stage of `ptl run` needs for a teacher, and the recipes that are refused one."""

from __future__ import annotations

import json

import pytest
import yaml

from llamafactory_ext.backend import LlamaFactory, stage_command
from llamafactory_ext.recipe import UNTAUGHT, distillation_problems
from llamafactory_ext.taught_stage import (
    REPORT,
    begin_taught_stage,
    require_teachable,
    sharding_problems,
    teacher_keys,
)
from ptl_plugins.distillation.teacher_check import (
    taught_stage_problems,
    teacher_problems,
    untaught,
)
from ptl_plugins.errors import PTLError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.run_recipe import read_run_recipe
from ptl_plugins.stage_types import LaunchSpec, StageJob, StageSpec
from ptl_plugins.testing import write_tiny_checkpoint
from ptl_plugins.types import DistillSpec

REGISTRY = build_registry(build_manager())


def stage(**keys):
    return StageSpec(backend="llamafactory", **{"settings": {}, **keys})


def answering(folder, answer):
    """Return an interpreter that answers every program with `answer`."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n", encoding="utf-8")
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ('{"ptl": false, "llamafactory": "0.9.5"}', "has no PTL that can distil"),
        ('{"ptl": true, "llamafactory": "0.9.1"}', "has llamafactory 0.9.1, but a teacher needs"),
    ],
)
def test_an_interpreter_that_cannot_distil_is_refused(tmp_path, answer, wrong):
    python = answering(tmp_path, answer)
    with pytest.raises(PTLError, match=wrong):
        require_teachable(stage(python=python))
    require_teachable(stage(python=python, launch=LaunchSpec(launcher="slurm")))


def test_settings_that_change_the_loss_are_refused():
    with pytest.raises(
        PTLError, match=r"settings\.torch_compile: True: does not go with a teacher"
    ):
        require_teachable(stage(settings={"torch_compile": True}))


ZERO_3 = {"zero_optimization": {"stage": 3}}
SHARDED = {
    "deepspeed": (ZERO_3, r"settings\.deepspeed: ZeRO-3: shards the weights"),
    "fsdp": ("full_shard auto_wrap", r"settings\.fsdp: 'full_shard auto_wrap': shards the weights"),
}


@pytest.mark.parametrize("key", SHARDED)
def test_a_stage_whose_weights_are_in_shards_is_refused_in_one_line(key):
    value, wrong = SHARDED[key]
    with pytest.raises(PTLError, match=wrong) as caught:
        require_teachable(stage(settings={key: value}))
    assert "\n" not in str(caught.value)


def test_only_a_deepspeed_file_of_zero_3_is_refused(tmp_path):
    files = {level: tmp_path / f"zero{level}.json" for level in (2, 3)}
    for level, path in files.items():
        path.write_text(json.dumps({"zero_optimization": {"stage": level}}), encoding="utf-8")
    assert sharding_problems({"deepspeed": str(files[2])}) == []
    assert sharding_problems({"deepspeed": str(tmp_path / "none.json")}) == []
    (problem,) = sharding_problems({"deepspeed": str(files[3])})
    assert problem.startswith("deepspeed: ZeRO-3: ")


def test_the_stages_of_a_recipe_are_held_against_its_teacher_and_nothing_is_asked():
    both = {"fsdp": "full_shard", "label_smoothing_factor": 0.1}
    stages = [stage(), stage(settings=both, python="/no/such/python")]
    first, second = taught_stage_problems(DistillSpec(teacher="x", weight=1.0), stages, REGISTRY)
    assert first.startswith("recover.1.settings.label_smoothing_factor: 0.1: ")
    assert second.startswith("recover.1.settings.fsdp: 'full_shard': ")
    for off in (None, DistillSpec(teacher="x", weight=0.0)):
        assert taught_stage_problems(off, stages, REGISTRY) == []


def test_the_original_of_a_stage_is_the_runs_and_a_folder(tmp_path):
    model = write_tiny_checkpoint(tmp_path / "model")
    spec = DistillSpec(teacher="original", weight=0.25, dtype="float32")
    assert teacher_keys(spec, str(model)) == {
        "ptl_distill": {
            "teacher": str(model.resolve()), "weight": 0.25, "dtype": "float32", "device": None,
        }
    }  # fmt: skip


def test_a_taught_stage_goes_through_ptls_own_door(tmp_path):
    words = stage_command(stage(python="/env/python"), tmp_path, taught=True).words
    assert words[:4] == ("/env/python", "-m", "ptl_plugins", "train-llamafactory")


def test_a_teacher_that_is_off_leaves_llamafactorys_trainer_as_it_is():
    import llamafactory.train.pt.workflow as workflow

    before = workflow.CustomTrainer
    teacher = {"teacher": "anything", "weight": 0.0}
    assert begin_taught_stage({"stage": "pt", "ptl_distill": teacher}) == {"stage": "pt"}
    assert workflow.CustomTrainer is before


def test_a_recipe_without_a_stage_is_refused_a_teacher(tmp_path):
    keys = {
        "model": str(write_tiny_checkpoint(tmp_path / "model")),
        "data": {"path": "x.txt"},
        "schedule": [{"unit": "neuron", "amount": 8}],
        "distill": {"teacher": "original", "weight": 0.5},
    }
    source = RecipeSource(
        path=tmp_path / "r.yaml", keys=keys, text=yaml.safe_dump(keys), registry=REGISTRY
    )
    with pytest.raises(PTLError, match="distill: no stage in 'recover' can have a teacher"):
        read_run_recipe(source)


def test_a_stage_of_a_backend_that_cannot_distil_has_no_teacher():
    spec = DistillSpec(teacher="original", weight=0.5)
    (line,) = untaught(spec, ["verl"], REGISTRY)
    assert line.endswith("backends that can: llamafactory")
    assert untaught(spec, ["verl", "llamafactory"], REGISTRY) == []
    assert untaught(None, ["verl"], REGISTRY) == []


def test_every_key_under_which_nothing_would_distil_is_refused():
    assert {"use_mca", "use_unsloth"} <= set(UNTAUGHT)
    for key in UNTAUGHT:
        assert distillation_problems({key: True}) == [
            f"{key}: True: does not go with a teacher; remove it"
        ]
        assert distillation_problems({key: False}) == []


def test_a_stage_that_trained_without_its_teacher_is_an_error(tmp_path):
    command = stage_command(stage(), tmp_path, taught=True)
    taught = StageJob(files={}, command=command, result=tmp_path, steps=tmp_path / REPORT)
    with pytest.raises(PTLError, match="LLaMA-Factory trained without the teacher"):
        LlamaFactory().collect(taught)
    untaught_job = StageJob(files={}, command=command, result=tmp_path)
    assert LlamaFactory().collect(untaught_job) == tmp_path


@pytest.mark.parametrize("text", ["[]", "{", '{"model": []}', '{"added_tokens": [1]}'])
def test_a_teachers_broken_tokenizer_is_told_in_one_line(tmp_path, text):
    original = write_tiny_checkpoint(tmp_path / "model")
    teacher = write_tiny_checkpoint(tmp_path / "teacher")
    (teacher / "tokenizer.json").write_text(text, encoding="utf-8")
    spec = DistillSpec(teacher=str(teacher), weight=1.0)
    (line,) = teacher_problems(spec, str(original), REGISTRY)
    assert "tokenizer.json: cannot be read as a tokenizer" in line
