"""The backend `verl` of `ptl run`: its refusals, its files and its command; verl is not run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ptl_plugins.errors import StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import prepare_run
from ptl_plugins.stage_types import Command, LaunchSpec, StageJob, StageModel, StageSpec
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus
from verl_ext import verl_backend
from verl_ext.grpo_stage import REWARD
from verl_ext.verl_backend import Verl
from verl_ext.verl_check import INSIDE

SETTINGS = {
    "rollout": "hf_cpu",
    "grpo": {"samples_per_prompt": 2, "prompts_per_step": 4, "mini_batch": 4, "steps": 2},
    "problems": {"path": "problems.jsonl"},
    "prompt": "prompt.jinja",
    "chat_template": "plain_chat",
}
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "seed": 7,
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
}
INPUTS = {"model", "data", "problems.jsonl", "prompt.jinja", "r.yaml"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with all that the recipe names; no Ray cluster runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "no_ray"))
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data")
    rows = [{"problem": f"What is {i} + 1?", "answer": i + 1} for i in range(40)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "problems.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "prompt.jinja").write_text("Q: {{ content }}\n", encoding="utf-8")
    (tmp_path / "open.jinja").write_text("{% for m in messages %}", encoding="utf-8")
    (tmp_path / "latin.jinja").write_text("\xe9 {{ content }}\n", encoding="latin-1")
    (tmp_path / "own.py").write_text("from math import sqrt as root\ndef score(): ...\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    return tmp_path


def stage(launch=None, python=None, **settings):
    launch = launch or LaunchSpec()
    settings = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not None}
    return StageSpec(backend="verl", settings=settings, launch=launch, python=python)


def everything(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prompt": "none.jinja"}, "settings.prompt: 'none.jinja' is no file; give a jinja file, "
         "or think_boxed or boxed"),
        ({"chat_template": "none.jinja"}, "settings.chat_template: 'none.jinja' is no file; "),
        ({"reward": {"file": "r.py", "function": "f"}},
         "settings.reward.file: 'r.py' is no file; give a Python file"),
        ({"reward": {"file": "own.py", "function": "scor"}},
         "settings.reward.function: 'own.py' defines no function 'scor' (did you mean 'score'?)"),
        ({"reward": {"file": "broken.py", "function": "f"}},
         "settings.reward.file: 'broken.py' is no Python ("),
        ({"chat_template": "boxed"}, "writes no `messages`; give a jinja file, or plain_chat"),
        ({"chat_template": "open.jinja"}, "settings.chat_template: 'open.jinja' is no jinja temp"),
        ({"prompt": "latin.jinja"}, "settings.prompt: 'latin.jinja' is not UTF-8; give a jinja"),
        ({"reward": {"file": "prompt.jinja"}}, "file and function go together"),
        ({"problems": None}, "settings.problems: "),
        ({"rollout": "vlm"}, "settings.rollout: "),
        ({"grpo": {"prompts_per_step": 6, "mini_batch": 4}}, "4 does not divide prompts_per_step"),
        ({"grpo": {"temperatur": 1}}, "settings.grpo.temperatur: "),
        ({"home": "/EasyR1"}, "settings.home: "),
        ({"tensor_parallel": 2}, "settings.tensor_parallel: 2 does not divide the stage's 1 GPUs "
         "(launch.processes x nodes)"),
        ({"config": {"trainer.nnodes": 2}}, "settings.config.trainer.nnodes: is set by PTL; set "
         "nodes"),
        ({"config": {"trainer": {"resume_mode": "auto"}}}, "never with an older shape"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(place, settings, line):
    found = Verl().check(stage(**settings))
    assert line in found
    assert "\n" not in found
    assert found.startswith("settings")


def test_a_chat_template_may_have_transformers_own_tag(place):
    text = "{% for m in messages %}{%- generation %}{{ m }}{% endgeneration -%}{% endfor %}"
    (place / "own.jinja").write_text(text, encoding="utf-8")
    assert Verl().check(stage(chat_template="own.jinja")) is None


@pytest.mark.parametrize("function", ["score", "root"])
def test_a_reward_of_the_users_own_may_define_or_import_its_function(place, function):
    reward = {"file": "own.py", "function": function}
    assert Verl().check(stage(reward=reward)) is None


def test_every_mistake_is_told_at_once(place):
    found = Verl().check(stage(prompt="none", tensor_parallel=3, config={"+ptl.x": 1}))
    keys = [line.split(":")[0] for line in found.splitlines()]
    assert keys == ["settings.config.+ptl.x", "settings.prompt", "settings.tensor_parallel"]


@pytest.mark.parametrize(("processes", "nodes", "parallel"), [(1, 1, 1), (4, 1, 2), (2, 2, 4)])
def test_settings_that_fit_are_fine(place, processes, nodes, parallel):
    launch = LaunchSpec(processes=processes)
    address = "head:6379" if nodes > 1 else None
    settings = {"nodes": nodes, "ray_address": address, "tensor_parallel": parallel}
    assert Verl().check(stage(launch, **settings)) is None


def test_a_model_is_held_against_the_rollout_engine(place):
    config = json.loads((place / "model/config.json").read_text())
    model = StageModel(config=config, folder=place / "model", shapes=())
    assert Verl().check_model(stage(), model) is None
    found = Verl().check_model(stage(chat_template=None, tensor_parallel=3), model)
    assert [line.split(":")[0] for line in found.splitlines()] == [
        "settings.tensor_parallel",
        "settings.tensor_parallel",
        "settings.chat_template",
    ]


@pytest.fixture
def asked(monkeypatch):
    """Let the interpreters find nothing; return what they were asked."""
    questions = []

    def check_in_verl(python, overrides, *, rollout):
        questions.append((python, overrides, rollout))

    monkeypatch.setattr(verl_backend, "check_in_verl", check_in_verl)
    monkeypatch.setattr(verl_backend, "reward_problem", lambda python, reward: questions.append(
        (python, reward.accuracy_weight)))  # fmt: skip
    return questions


def test_the_stages_interpreter_is_asked_with_what_a_stage_would_give(place, asked):
    assert Verl().check_thoroughly(stage(python="/env/python")) is None
    (python, overrides, rollout), reward = asked
    assert (python, rollout, reward) == ("/env/python", "hf_cpu", ("/env/python", 0.9))
    assert "trainer.default_local_dir=/stage/saved" in overrides
    chat = (Path(verl_backend.__file__).parent / "templates/plain_chat.jinja").read_text()
    assert any(each.startswith("actor_rollout_ref.model.custom_chat_template='") for each in
               overrides) == bool(chat)  # fmt: skip


def test_a_running_cluster_is_told_before_anything_is_asked(place, asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = Verl().check_thoroughly(stage())
    assert found.startswith("settings.ray_address: a Ray cluster runs at '10.0.0.1:6379'")
    assert asked == []
    assert Verl().check_thoroughly(stage(ray_address="local")) is None
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("settings", "prompt", "line"),
    [
        ({"problems": {"path": "none.jsonl"}}, None,
         "settings.problems: data 'none.jsonl': no such file"),
        ({"problems": {"path": "problems.jsonl", "answer": "solution"}}, None,
         "settings.problems: problems 'problems.jsonl': has no column 'solution'; it has problem, "
         "answer; name one of them as settings.problems.answer"),
        ({}, "{{ content", "settings.prompt: prompt.jinja: is no jinja template of `content` ("),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_told_before_the_first_round(
    place, asked, settings, prompt, line
):
    if prompt:
        (place / "prompt.jinja").write_text(prompt, encoding="utf-8")
    found = Verl().check_thoroughly(stage(**settings))
    assert found.startswith(line)
    assert "\n" not in found


def test_a_data_set_of_the_hub_is_not_fetched_for_a_check(place, asked, monkeypatch):
    monkeypatch.setattr("verl_ext.problems.read_rows", None)
    assert Verl().check_thoroughly(stage(problems={"path": "owner/name"})) is None


@pytest.fixture
def job(place, asked):
    """Return the job of a round of a run whose only stage is this one."""

    def make(round_index=1, launch=None, python=None, **settings):
        spec = stage(launch, python, **settings)
        entry = {"backend": "verl", "settings": spec.settings}
        text = yaml.safe_dump({**RECIPE, "recover": [entry]})
        (place / "r.yaml").write_text(text, encoding="utf-8")
        manager = build_manager(plugins=["verl_ext.plugin"], autoload=False)
        registry = build_registry(manager)
        recipe = read_recipe(place / "r.yaml", manager.hook, registry)
        start = prepare_run(recipe, manager, registry, writes=False).start
        ctx = start.for_round(recipe.rounds[round_index - 1])
        before = everything(place)
        made = Verl().job(ctx, spec, Path("out/pruned"), Path("out/round_01/stage_0"))
        assert everything(place) == before, "a job writes nothing"
        return made

    return make


def rows(job, name):
    (path,) = [path for path in job.files if path.name == name]
    return [json.loads(line) for line in job.files[path].splitlines()]


def test_a_job_brings_data_reward_and_the_code_that_verl_loads(place, job):
    made, folder = job(), place / "out/round_01/stage_0"
    names = {path.relative_to(folder).as_posix() for path in made.files}
    inside = {f"code/verl_ext/in_verl/{path.name}" for path in INSIDE.glob("*.py")}
    data = {"data/train.jsonl", "data/validation.jsonl"}
    assert names == {*data, "reward.py", "code/verl_ext/__init__.py", *inside}
    assert made.files[folder / "reward.py"] == REWARD.read_text(encoding="utf-8")
    assert len(rows(made, "train.jsonl")) == 20
    assert rows(made, "validation.jsonl") == rows(made, "train.jsonl")[:8]
    first = rows(made, "train.jsonl")[0]
    assert first["prompt"][0]["content"].startswith("Q: What is ")
    assert (made.result, made.steps) == (folder / "saved", folder / "steps.jsonl")


def test_two_rounds_have_other_problems_and_another_seed(job):
    first, second = job(1), job(2)
    prompts = [{row["prompt"][0]["content"] for row in rows(each, "train.jsonl")} for each in
               (first, second)]  # fmt: skip
    assert len(prompts[0] | prompts[1]) == 40
    assert "data.seed=8" in first.command.words
    assert "data.seed=9" in second.command.words


def test_the_command_is_verls_own_program_with_every_override(place, job):
    launch = LaunchSpec(processes=2, timeout=60)
    command = job(launch=launch, python="/env/bin/python").command
    folder = place / "out/round_01/stage_0"
    assert command.words[:3] == ("/env/bin/python", "-m", "verl.trainer.main_ppo")
    assert command.words[-1] == f"hydra.run.dir={folder}/hydra"
    assert {
        f"data.train_files={folder}/data/train.jsonl",
        f"trainer.default_local_dir={folder}/saved",
        f"reward.custom_reward_function.path={folder}/reward.py",
        f"actor_rollout_ref.model.path={place}/out/pruned",
        f"+ptl.steps_file={folder}/steps.jsonl",
        "trainer.v1.trainer_mode=ptl_sync",
        "trainer.n_gpus_per_node=2",
    } <= set(command.words)
    assert (command.folder, command.log, command.launch) == (place, folder / "train.log", launch)


def test_the_environment_is_the_stages_own(place, job, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder = place / "out/round_01/stage_0"
    assert job().command.environment == {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(folder / "code"),
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.in_verl.plugin",
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",
        "RAY_ADDRESS": "local",
    }
    joined = job(rollout="vllm", ray_address="10.0.0.1:6379").command.environment
    assert joined["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert "VERL_PLATFORM" not in joined


@pytest.mark.parametrize(("address", "tells"), [("head:6379", True), ("local", False)])
def test_a_cluster_that_was_started_elsewhere_is_told_where_the_stages_code_is(job, address, tells):
    words = job(ray_address=address).command.words
    key = "+ray_kwargs.ray_init.runtime_env.env_vars."
    told = [word for word in words if word.startswith(key)]
    names = {word.removeprefix(key).split("=")[0] for word in told}
    wanted = {"PYTHONPATH", "VERL_USE_EXTERNAL_MODULES", "VERL_PLATFORM", "VERL_ENGINE_DEVICE"}
    assert names == (wanted if tells else set())


def test_a_reward_of_the_users_own_is_used_where_it_is(place, job):
    (place / "mine.py").write_text("def f(): ...\n", encoding="utf-8")
    made = job(reward={"file": "mine.py", "function": "f"})
    assert not any(path.name == "reward.py" for path in made.files)
    assert f"reward.custom_reward_function.path={place}/mine.py" in made.command.words
    assert "reward.custom_reward_function.name=f" in made.command.words


def test_a_profile_brings_the_rounds_texts(place, job):
    made = job(profile={"after": True, "num_sequences": 3})
    folder = place / "out/round_01/stage_0"
    texts = json.loads(made.files[folder / "data/profile.json"])
    assert len(texts) == 3
    assert texts[0].startswith("Question: ")
    assert f"+ptl.profile_after={folder}/profile_after.safetensors" in made.command.words
    assert not any(word.startswith("+ptl.profile_before") for word in made.command.words)


@pytest.fixture
def done(tmp_path):
    """A stage that left one checkpoint and its steps."""
    command = Command(words=("verl",), folder=tmp_path, log=tmp_path / "train.log")
    (tmp_path / "saved/global_step_2/actor/huggingface").mkdir(parents=True)
    (tmp_path / "steps.jsonl").write_text("{}\n", encoding="utf-8")
    steps = tmp_path / "steps.jsonl"
    return StageJob(files={}, command=command, result=tmp_path / "saved", steps=steps)


def test_the_checkpoint_is_what_verl_wrote_for_hugging_face(done):
    assert Verl().collect(done) == done.result / "global_step_2/actor/huggingface"


def test_no_checkpoint_or_two_are_one_line_with_the_log(done):
    (done.result / "global_step_1/actor/huggingface").mkdir(parents=True)
    with pytest.raises(StageError) as two:
        Verl().collect(done)
    with pytest.raises(StageError) as none:
        Verl().collect(replace(done, result=done.result / "elsewhere"))
    for number, raised in ((2, two), (0, none)):
        assert f"left {number} checkpoints where it should be one; see " in str(raised.value)
        assert str(raised.value).endswith("train.log")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_stage_that_trained_no_step_is_refused(done, left):
    done.steps.unlink()
    if left == "an empty file":
        done.steps.touch()
    with pytest.raises(StageError, match="the stage noted no training step; see"):
        Verl().collect(done)
