"""The paper's recipes: their numbers, where they end, what the frameworks say to their settings."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llamafactory_ext.backend import LlamaFactory
from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.shipped_recipes import recipes_folder
from verl_ext.easyr1_config import config_problems, easyr1_config
from verl_ext.easyr1_schema import NEWEST, key_problem
from verl_ext.easyr1_sizes import size_problems
from verl_ext.grpo_settings import EasyR1Model, VerlModel, flatten
from verl_ext.grpo_stage import StageFacts
from verl_ext.verl_check import check_in_verl
from verl_ext.verl_config import verl_overrides

HOME = os.environ.get("PTL_EASYR1_HOME")
PYTHON = os.environ.get("PTL_EASYR1_PYTHON", sys.executable)
FOLDER = recipes_folder() / "paper" / "qwen2_5_7b"
RECIPES = {
    path.stem: path for path in sorted(FOLDER.glob("ptl_*.yaml")) if "released" not in path.stem
}
OF_VERL = ("ptl_algorithm1_verl", "ptl_cpt_then_grpo", "ptl_grpo_verl")
BASELINES = ("control", "prune_once", "shortgpt")
QWEN2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "use_sliding_window": False,
}
"""The shape of the paper's model, without its weights."""
GSM8K_TOKENS = 636
"""Of a problem and its answer: with them the paper's FLOPs of Qwen2.5-7B come out."""
MATH12K = 12000
SOURCED = re.compile(r"# (paper|released script|PTL: |likewise)")


@pytest.fixture(scope="module")
def plugins():
    """Every plugin that PTL ships, and what they register."""
    manager = build_manager()
    return manager, build_registry(manager)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What `home` of the recipe for EasyR1 names, as far as it is looked at."""
    package = tmp_path / "EasyR1" / "verl"
    (package / "trainer").mkdir(parents=True)
    (package / "__init__.py").write_text(f'__version__ = "{NEWEST}"\n', encoding="utf-8")
    (package / "trainer" / "main.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return package.parent


@pytest.fixture
def planned(tmp_path, plugins, clone):
    """Plan a recipe against a config of the paper's model; keys of each stage's settings differ."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_5_7B), encoding="utf-8")

    def plan(name, **changed):
        manager, registry = plugins
        recipe = read_recipe(RECIPES[name], manager.hook, registry)
        stages = [
            dataclasses.replace(stage, settings={**stage.settings, **changed})
            for stage in recipe.stages
        ]
        return plan_run(
            dataclasses.replace(recipe, model=str(tmp_path), stages=tuple(stages)), registry
        )

    return plan


def keys_of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def header(name):
    lines = RECIPES[name].read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


def grpo_stage(name):
    (stage,) = (s for s in keys_of(name)["recover"] if s["backend"] in ("verl", "easyr1"))
    return stage


def cpt_stage(name):
    (stage,) = (s for s in keys_of(name)["recover"] if s["backend"] == "llamafactory")
    return stage


def test_the_recipes_are_those_of_the_tables_and_of_algorithm_1():
    assert set(RECIPES) == {*OF_VERL, "ptl_grpo_easyr1"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_recipe_names_its_source(name):
    body = RECIPES[name].read_text(encoding="utf-8").split("\n\n", maxsplit=1)[1]
    lines = [line for line in body.splitlines() if re.search(r"[:\[ ]\d", line.split(" # ")[0])]
    assert len(lines) > 15
    assert [line for line in lines if not SOURCED.search(line)] == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_plan_ends_in_the_shape_that_the_recipe_tells(planned, name):
    plan = planned(name)
    end = plan.rounds[-1].geometry
    told = re.search(r"The end: (\d+) layers of width (\d+), ([\d.]+) B parameters", header(name))
    assert told
    assert (end.num_layers, end.width) == (int(told[1]), int(told[2]))
    assert f"{end.num_parameters / 1e9:.2f}" == told[3]
    assert plan.original.num_parameters == 7_615_616_512


def test_the_flops_that_the_recipes_tell_are_those_of_the_shapes(planned):
    shape = planned("ptl_grpo_verl").original

    def tera(width, num_layers):
        flops = shape.after(width=width, num_layers=num_layers).flops_per_token
        return pytest.approx(flops * GSM8K_TOKENS / 1e12, abs=0.06)

    assert tera(18944, 28) == 9.0, "the paper's Table 1"
    assert tera(8944, 28) == 5.2
    assert tera(8244, 28) == 4.9
    assert tera(8944, 26) == 4.9
    for name in ("ptl_grpo_verl", "ptl_grpo_easyr1"):
        assert "5.2 T FLOPs" in header(name)
        assert "only 4.9 T: 28 layers of 8244 (18944 - 10700) or 26 of 8944" in header(name)
    assert "Table 1 (4.9 T on GSM8K)" in header("ptl_cpt_then_grpo")


@pytest.mark.parametrize("name", RECIPES)
def test_every_width_divides_by_the_tensor_parallel_size(planned, name):
    parallel = grpo_stage(name)["settings"]["tensor_parallel"]
    assert all(each.geometry.width % parallel == 0 for each in planned(name).rounds)


def test_a_tensor_parallel_size_that_does_not_fit_the_shape_is_refused(planned):
    with pytest.raises(RecipeError, match=r"recover\.0\.settings\.tensor_parallel: 8 does not di"):
        planned("ptl_grpo_verl", tensor_parallel=8)


@pytest.mark.parametrize("name", RECIPES)
def test_the_numbers_of_grpo_are_the_papers_and_the_released_scripts(name):
    stage = grpo_stage(name)
    grpo = stage["settings"]["grpo"]
    paper = {
        "samples_per_prompt": 8,
        "prompts_per_step": 128,
        "mini_batch": 128,
        "temperature": 1.0,
        "learning_rate": 1e-6,
        "warmup_ratio": 0.0,
    }
    released = {
        "top_p": 0.99,
        "weight_decay": 1e-2,
        "kl": 1e-2,
        "max_prompt_length": 2048,
        "max_response_length": 3000,
        "epochs": 15,
    }
    assert grpo == paper | released
    assert stage["launch"] == {"processes": 8}
    assert stage["settings"]["tensor_parallel"] == 2
    assert stage["settings"]["problems"]["path"] == "data/math12k"
    reward = stage["settings"]["reward"]
    assert (reward["accuracy_weight"], reward["format_weight"]) == (0.9, 0.1)
    text = RECIPES[name].read_text(encoding="utf-8")
    for key in (*paper, *released):
        source = "paper, 3.1" if key in paper else "released script"
        assert re.search(rf"^ +{key}: \S+  # {source}", text, re.MULTILINE), key


@pytest.mark.parametrize(
    ("name", "rounds", "problems", "steps"),
    [
        ("ptl_grpo_verl", 10, 1200, "9 steps an epoch, 135 a round"),
        ("ptl_grpo_easyr1", 10, 1200, "9 steps an epoch, 135 a round"),
        ("ptl_algorithm1_verl", 10, 1200, "9 steps an epoch, 135 a round"),
        ("ptl_cpt_then_grpo", 1, 12000, "93 steps an epoch, 1395 in all"),
    ],
)
def test_the_rounds_the_problems_and_the_steps_are_those_that_are_told(
    planned, name, rounds, problems, steps
):
    stage = grpo_stage(name)
    first, last = stage.get("rounds") or (1, len(planned(name).rounds))
    assert last - first + 1 == rounds
    assert MATH12K // rounds == problems
    grpo = stage["settings"]["grpo"]
    an_epoch = problems // grpo["prompts_per_step"]  # both frameworks drop what is left over
    assert [int(n) for n in re.findall(r"\d+", steps)] == [an_epoch, an_epoch * grpo["epochs"]]
    assert steps in RECIPES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_the_pruning_is_eq_4_by_the_released_scripts_steps(name):
    keys = keys_of(name)
    neurons = keys["schedule"][0]
    assert (neurons["unit"], neurons["criterion"]) == ("neuron", "activation_max")
    assert (neurons["amount"], neurons["rounds"]) == (1000, 10)
    assert keys["refit"] == "none"
    assert keys["model"] == "Qwen/Qwen2.5-7B"
    assert keys["calibration"] == {"num_sequences": 10, "max_length": 1024}
    assert keys["data"] == {"path": "data/numina_metamath"}


def test_in_table_2_all_of_the_pre_training_comes_first(planned):
    plan = planned("ptl_cpt_then_grpo")
    rounds = [[s.backend for s in plan.recipe.stages_in(r.spec.index)] for r in plan.rounds]
    assert rounds == [["llamafactory"]] * 12 + [["verl"]]
    cuts = [[cut.unit for cut in each.spec.cuts] for each in plan.rounds]
    assert cuts == [["neuron"]] * 10 + [["layer"]] * 2 + [[]]


def test_algorithm_1_removes_both_and_recovers_by_both_in_a_round(planned):
    plan = planned("ptl_algorithm1_verl")
    rounds = [[s.backend for s in plan.recipe.stages_in(r.spec.index)] for r in plan.rounds]
    assert rounds == [["llamafactory", "verl"]] * 10
    cuts = [[cut.unit for cut in each.spec.cuts] for each in plan.rounds]
    assert cuts == [["layer", "neuron"]] * 2 + [["neuron"]] * 8


@pytest.mark.parametrize("name", ["ptl_cpt_then_grpo", "ptl_algorithm1_verl"])
def test_the_numbers_of_pre_training_are_the_papers_and_the_released_scripts(name):
    stage = cpt_stage(name)
    settings = stage["settings"]
    assert stage["launch"] == {"processes": 4}
    assert (settings["learning_rate"], settings["cutoff_len"]) == (8e-6, 1024)
    per_step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert per_step * stage["launch"]["processes"] == 32
    assert settings["num_train_epochs"] == 1.0
    assert (settings["lr_scheduler_type"], settings["warmup_ratio"]) == ("cosine", 0.05)
    assert settings["disable_gradient_checkpointing"] is False
    file = Path(settings["deepspeed"])
    assert file.parts[0] == "recipes"
    zero = json.loads((recipes_folder() / Path(*file.parts[1:])).read_text(encoding="utf-8"))
    assert zero["zero_optimization"]["stage"] == 2


def test_llamafactorys_parser_takes_the_pre_training(plugins):
    manager, registry = plugins
    first, second = (
        read_recipe(RECIPES[name], manager.hook, registry).stages[0]
        for name in ("ptl_cpt_then_grpo", "ptl_algorithm1_verl")
    )
    assert first.settings == second.settings
    assert LlamaFactory().check_thoroughly(first) is None


# --- what the frameworks say to the settings of GRPO ---

FACTS = StageFacts(
    model=Path("/run/round_01/pruned"),
    folder=Path("/run/round_01/stage_0"),
    reward_file=Path("/run/round_01/stage_0/reward.py"),
    reward_function="score_answer",
    prompt=Path("/templates/think_boxed.jinja"),
    chat_template=None,
    processes=8,
    seed=43,
)


def overrides(name, **changed):
    settings = {**grpo_stage(name)["settings"], **changed}
    return verl_overrides(VerlModel.model_validate(settings), FACTS, None)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_verl_composes_the_recipes_and_its_own_checks_take_them():
    """The engine of the question is hf_cpu: vLLM need not be there; the overrides ask for it."""
    first = overrides("ptl_grpo_verl")
    assert "actor_rollout_ref.rollout.name=vllm" in first
    assert all(overrides(name) == first for name in (*OF_VERL, *BASELINES))
    assert check_in_verl(sys.executable, first, rollout="hf_cpu") is None


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_verl_refuses_a_recipe_with_a_key_or_a_batch_that_it_does_not_take():
    unknown = overrides("ptl_grpo_verl", config={"actor_rollout_ref.actor.kl_los_type": "k1"})
    found = check_in_verl(sys.executable, unknown, rollout="hf_cpu")
    assert found is not None
    assert "kl_los_type" in found
    grpo = grpo_stage("ptl_grpo_verl")["settings"]["grpo"]
    uneven = {"prompts_per_step": 5, "mini_batch": 5, "samples_per_prompt": 3}  # on 8 GPUs
    uneven = overrides("ptl_grpo_verl", grpo=grpo | uneven)
    found = check_in_verl(sys.executable, uneven, rollout="hf_cpu")
    assert found is not None
    assert "15" in found


def easyr1_settings(**changed):
    settings = grpo_stage("ptl_grpo_easyr1")["settings"]
    assert grpo_stage("ptl_grpo_easyr1_released")["settings"] == settings
    return EasyR1Model.model_validate({**settings, **changed})


def test_easyr1s_keys_types_and_sizes_are_those_of_the_snapshot():
    settings = easyr1_settings()
    assert list(config_problems(settings)) == []
    assert list(size_problems(settings, processes=8)) == []
    whole = dict(flatten(easyr1_config(settings, FACTS)))
    assert len(whole) > 30
    problems = {key: key_problem(key, value, NEWEST) for key, value in whole.items()}
    assert {key: found for key, found in problems.items() if found} == {}
    assert whole["algorithm.kl_penalty"] == "low_var_kl"
    assert whole["worker.actor.global_batch_size"] == 128
    assert whole["worker.rollout.tensor_parallel_size"] == 2


def test_a_key_or_a_type_that_easyr1_does_not_know_is_found():
    wrong = {"worker.actor.fsdp.enable_full_shards": True, "algorithm.kl_penalty": 2}
    found = list(config_problems(easyr1_settings(config=wrong)))
    assert len(found) == 2
    assert "enable_full_shard'" in found[0]


def test_without_a_clone_the_recipe_for_easyr1_is_refused_in_one_line(
    plugins, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    manager, registry = plugins
    with pytest.raises(RecipeError) as raised:
        read_recipe(RECIPES["ptl_grpo_easyr1"], manager.hook, registry)
    told = f"recover.0.settings.home: '{tmp_path / 'EasyR1'}' is no folder; give a clone of EasyR1"
    assert str(raised.value) == f"{RECIPES['ptl_grpo_easyr1']}: {told}"


@pytest.mark.easyr1
@pytest.mark.skipif(not HOME, reason="PTL_EASYR1_HOME names no clone of EasyR1")
def test_easyr1s_own_config_takes_the_recipe_and_keeps_its_files(tmp_path):
    for name in ("think_boxed.jinja", "reward.py"):
        (tmp_path / name).write_text("", encoding="utf-8")
    facts = dataclasses.replace(
        FACTS, prompt=tmp_path / "think_boxed.jinja", reward_file=tmp_path / "reward.py"
    )
    path = tmp_path / "easyr1.yaml"
    path.write_text(yaml.safe_dump(easyr1_config(easyr1_settings(), facts)), encoding="utf-8")
    program = Path(__file__).with_name("easyr1_own_config.py")
    words = [PYTHON, str(program), str(HOME), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads(done.stdout.splitlines()[-1])
    assert config["data"]["rollout_batch_size"] == 128
    assert config["data"]["format_prompt"] == str(facts.prompt)
    assert config["worker"]["reward"]["reward_function"] == str(facts.reward_file)
    assert config["worker"]["rollout"]["n"] == 8
    assert config["worker"]["actor"]["offload"]["offload_optimizer"] is True


def test_the_settings_of_both_frameworks_differ_in_their_own_keys_alone():
    ours = dict(grpo_stage("ptl_grpo_verl")["settings"])
    theirs = dict(grpo_stage("ptl_grpo_easyr1")["settings"])
    for settings, own in ((ours, ("rollout", "config")), (theirs, ("home", "config"))):
        for key in own:
            del settings[key]
    assert ours == theirs
