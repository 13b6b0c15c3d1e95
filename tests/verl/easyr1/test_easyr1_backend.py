"""The backend `easyr1`: its job, its refusals, and how its shards become a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ptl_plugins.errors import PTLError, StageError
from ptl_plugins.geometry import Geometry
from ptl_plugins.stage_types import LaunchSpec, StageModel, StageSpec
from ptl_plugins.types import RoundSpec
from verl_ext import easyr1_backend
from verl_ext.easyr1_backend import EasyR1
from verl_ext.grpo_stage import REWARD

FAKE = Path(__file__).with_name("fake")
GRPO = {"samples_per_prompt": 4, "prompts_per_step": 4, "mini_batch": 4}
NUM_PROBLEMS = 20


@pytest.fixture
def stage(tmp_path):
    """Write problems; return a stage of two GPUs, whose settings may be changed."""
    rows = [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(NUM_PROBLEMS)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "problems.jsonl").write_text(text, encoding="utf-8")

    def make(**keys):
        problems = {"path": str(tmp_path / "problems.jsonl")}
        settings = {"home": str(FAKE), "grpo": GRPO, "problems": problems, **keys}
        launch = LaunchSpec(processes=2)
        return StageSpec(
            backend="easyr1", settings=settings, python="/env/bin/python", launch=launch
        )

    return make


def context(index=1, num_rounds=2):
    recipe = SimpleNamespace(seed=42, planned_rounds=(None,) * num_rounds, tokens="equal")
    spec = RoundSpec(index=index, cuts=())
    return SimpleNamespace(spec=spec, recipe=recipe, original=None, registry=None)


def job_of(stage, folder, **keys):
    return EasyR1().job(context(**keys), stage, folder / "pruned", folder / "stage_0")


def test_the_settings_of_a_good_stage_pass(stage):
    assert EasyR1().check(stage()) is None


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"hom": "x"}, "settings.hom: unknown key (did you mean 'home'?)"),
        ({"home": "/none"}, "settings.home: '/none' is no folder; give a clone of EasyR1"),
        ({"prompt": "/none.jinja"}, "settings.prompt: '/none.jinja' is no file"),
        ({"chat_template": "/none.jinja"}, "settings.chat_template: '/none.jinja' is no file"),
        (
            {"reward": {"file": "/none.py", "function": "f"}},
            "settings.reward.file: '/none.py' is no file; give a Python file",
        ),
        (
            {"config": {"trainer.load_checkpoint_path": "/old"}},
            "settings.config.trainer.load_checkpoint_path: is set by PTL; a stage begins with",
        ),
        (
            {"config": {"worker.actor.padding_fre": True}},
            "is no key of EasyR1 0.3.3.dev0 (did you mean 'worker.actor.padding_free'?)",
        ),
        ({"tensor_parallel": 3}, "settings.tensor_parallel: 3 does not divide the stage's 2 GPUs"),
        (
            {"config": {"worker.actor.ulysses_size": "two"}},
            "settings.config.worker.actor.ulysses_size: 'two' is not a whole number",
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_one_line_with_its_key(keys, line, stage):
    found = EasyR1().check(stage(**keys))
    assert line in found
    assert len(found.splitlines()) == 1


def test_all_that_is_wrong_is_told_at_once(stage):
    found = EasyR1().check(stage(home="/none", prompt="/none", tensor_parallel=3, config={"x": 1}))
    places = [line.split(":")[0] for line in found.splitlines()]
    assert places == [
        "settings.home",
        "settings.config.x",
        "settings.prompt",
        "settings.tensor_parallel",
    ]


def test_a_shape_that_vllm_would_refuse_is_told(stage, tmp_path):
    sizes = {"num_layers": 2, "hidden": 32, "vocabulary": 9, "layer_fixed": 1, "per_neuron": 96}
    shapes = (Geometry(width=41, tied=True, **sizes),)
    model = StageModel(config={"num_attention_heads": 4}, folder=tmp_path, shapes=shapes)
    found = EasyR1().check_model(stage(tensor_parallel=2, chat_template="plain_chat"), model)
    assert found.startswith("settings.tensor_parallel: 2 does not divide the width 41")


def test_the_settings_are_not_asked_about_while_a_ray_cluster_runs(stage, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = EasyR1().check_thoroughly(stage())
    assert found.startswith("settings.ray_address: a Ray cluster runs at '10.0.0.1:6379'")


def test_easyr1_and_the_judge_are_asked_in_the_stages_interpreter(stage, monkeypatch):
    asked = []
    monkeypatch.setattr(easyr1_backend, "running_cluster_problem", lambda _: None)
    monkeypatch.setattr(
        easyr1_backend, "check_in_easyr1", lambda *words: asked.append(words) or "settings.a: b"
    )
    monkeypatch.setattr(
        easyr1_backend, "reward_problem", lambda python, _: f"settings.reward: {python}"
    )
    found = EasyR1().check_thoroughly(stage())
    assert found == "settings.a: b\nsettings.reward: /env/bin/python"
    ((python, home, keys),) = asked
    assert (python, home) == ("/env/bin/python", FAKE)
    assert Path(keys["data"]["format_prompt"]).is_file()
    assert keys["worker"]["reward"]["reward_function"] == f"{REWARD}:score_answers"


def test_problems_that_cannot_be_read_are_told_before_the_first_round(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(easyr1_backend, "running_cluster_problem", lambda _: None)
    monkeypatch.setattr(easyr1_backend, "check_in_easyr1", lambda *_: None)
    monkeypatch.setattr(easyr1_backend, "reward_problem", lambda *_: None)
    problems = {"path": str(tmp_path / "problems.jsonl"), "answer": "solution"}
    found = EasyR1().check_thoroughly(stage(problems=problems))
    assert found.startswith("settings.problems: ")
    assert "has no column 'solution'" in found
    assert EasyR1().check_thoroughly(stage()) is None


def test_the_job_has_the_yaml_the_problems_and_the_programs(stage, tmp_path):
    job, folder = job_of(stage(), tmp_path), tmp_path / "stage_0"
    names = {str(path.relative_to(folder)) for path in job.files}
    assert names == {
        "easyr1.yaml",
        "data/train.jsonl",
        "data/validation.jsonl",
        "code/easyr1_launch.py",
        "reward.py",
    }
    config = yaml.safe_load(job.files[folder / "easyr1.yaml"])
    assert config["data"]["train_files"] == f"{folder}/data/train.jsonl@train"
    assert config["worker"]["reward"]["reward_function"] == f"{folder}/reward.py:score_answers"
    assert config["trainer"]["save_checkpoint_path"] == str(job.result)
    assert config["data"]["seed"] == 43
    assert job.files[folder / "reward.py"] == REWARD.read_text(encoding="utf-8")
    assert not folder.exists(), "a job writes nothing"


def test_the_rounds_train_on_problems_of_their_own(stage, tmp_path):
    parts = []
    for index in (1, 2):
        job = job_of(stage(), tmp_path, index=index)
        text = job.files[tmp_path / "stage_0" / "data" / "train.jsonl"]
        parts.append([json.loads(line) for line in text.splitlines()])
    assert [len(part) for part in parts] == [10, 10]
    assert {tuple(row) for part in parts for row in part} == {("problem", "answer")}
    questions = [{row["problem"] for row in part} for part in parts]
    assert not questions[0] & questions[1]


def test_the_command_runs_the_launcher_with_the_clone_on_the_path(stage, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder, command = tmp_path / "stage_0", job_of(stage(), tmp_path).command
    assert command.words == (
        "/env/bin/python",
        f"{folder}/code/easyr1_launch.py",
        f"{folder}/easyr1.yaml",
        f"{folder}/steps.jsonl",
    )
    assert command.environment == {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(FAKE),
        "RAY_ADDRESS": "local",
    }


def test_a_reward_of_ones_own_is_used_where_it_lies(stage, tmp_path):
    own = tmp_path / "own.py"
    own.touch()
    job = job_of(stage(reward={"file": str(own), "function": "f"}), tmp_path)
    config = yaml.safe_load(job.files[tmp_path / "stage_0" / "easyr1.yaml"])
    assert config["worker"]["reward"] == {"reward_function": f"{own}:f"}
    assert tmp_path / "stage_0" / "reward.py" not in job.files


def test_fewer_problems_than_a_step_has_are_refused(stage, tmp_path):
    grpo = {**GRPO, "prompts_per_step": 12, "mini_batch": 12}
    with pytest.raises(PTLError, match=r"prompts_per_step: 12 is more than the 10 problems"):
        job_of(stage(grpo=grpo), tmp_path)


def test_a_folder_that_easyr1_would_cut_is_refused(stage, tmp_path):
    with pytest.raises(PTLError, match="takes what follows '@' in a path for a split"):
        job_of(stage(), tmp_path / "me@here")


@pytest.fixture
def trained(stage, tmp_path):
    """A job of which EasyR1 left one rank's shards, and the weights in them."""
    job = job_of(stage(), tmp_path)
    actor = job.result / "global_step_2" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").write_text("{}", encoding="utf-8")
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(2)}
    torch.save(weights, actor / "model_world_size_1_rank_0.pt")
    job.steps.write_text('{"step": 1}\n', encoding="utf-8")
    return job, actor, weights


def test_the_shards_are_merged_and_removed(trained):
    job, actor, weights = trained
    folder = EasyR1().collect(job)
    merged = load_file(folder / "model.safetensors")
    assert merged.keys() == weights.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, weights[name].bfloat16())
    assert [path.name for path in actor.iterdir()] == ["huggingface"]
    assert EasyR1().collect(job) == folder, "a second try, after the shards are gone"


def test_the_shards_stay_if_the_recipe_says_so(trained):
    job, actor, _ = trained
    EasyR1().collect(replace(job, keep_shards=True))
    assert (actor / "model_world_size_1_rank_0.pt").is_file()


@pytest.mark.parametrize("number", [0, 2])
def test_none_or_several_checkpoints_are_refused(number, trained):
    job, actor, _ = trained
    if number:
        (job.result / "global_step_3" / "actor").mkdir(parents=True)
    else:
        actor.rename(actor.with_name("critic"))
    with pytest.raises(StageError, match=f"left {number} checkpoints where it should be one"):
        EasyR1().collect(job)


def test_a_run_without_notes_is_refused(trained):
    job, _, _ = trained
    job.steps.unlink()
    with pytest.raises(StageError, match="the stage noted no training step"):
        EasyR1().collect(job)
