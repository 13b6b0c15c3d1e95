"""The baselines' recipes: the shapes they tell, and the same recovery as PTL's own."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from llamafactory_ext.backend import LlamaFactory
from ptl_plugins.errors import RecipeError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.parts import cut_documents
from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.shipped_recipes import recipes_folder

PAPER = recipes_folder() / "paper"
QUICKSTART = recipes_folder() / "quickstart"
BASELINES = ("control", "prune_once", "shortgpt", "slicegpt")
ENDS = re.compile(
    r"The end: (\d+) layers of width (\d+)(?: and hidden size (\d+))?, ([\d.]+) B parameters"
)
COMMON = {"num_key_value_heads": 8, "tie_word_embeddings": False}
CONFIGS = {
    "llama3_8b": {
        **COMMON, "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128256,
    },
    "gemma2_9b": {
        **COMMON, "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
        "num_hidden_layers": 42, "num_attention_heads": 16, "head_dim": 256, "vocab_size": 256000,
        "tie_word_embeddings": True,
    },
    "qwen2_5_7b": {
        **COMMON, "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip
CORPUS = {"llamafactory": 1_254_494, "verl": 12_000}
"""Documents that a backend's rounds share: texts of both sets, problems of math12k."""
QUICKSTART_CORPUS = 420
RECIPES = [(model, name) for model in CONFIGS for name in BASELINES]
SOURCED = re.compile(r"# (paper|released script|PTL: |likewise)")


@pytest.fixture(scope="module")
def plugins():
    """Every plugin that PTL ships, and what they register."""
    manager = build_manager()
    return manager, build_registry(manager)


@pytest.fixture
def planned(tmp_path, monkeypatch, plugins):
    """Plan a recipe against a config, in a folder that holds what the quickstart writes."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "quickstart" / "data" / "held_out.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n', encoding="utf-8")

    def plan(path, config):
        manager, registry = plugins
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        recipe = read_recipe(path, manager.hook, registry, thorough=False)
        return plan_run(dataclasses.replace(recipe, model=str(tmp_path)), registry)

    return plan


def file_of(model, name):
    return PAPER / model / f"{name}.yaml"


def keys_of(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def header(path):
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


def siblings(model, backend):
    """Return the recipes of a model that recover by one backend alone, PTL's own included.

    The released scripts' variants have other settings on purpose.
    """
    paths = sorted(p for p in (PAPER / model).glob("*.yaml") if "released" not in p.stem)
    return [p for p in paths if [s["backend"] for s in keys_of(p)["recover"]] == [backend]]


def recovery(keys):
    """Return how a recipe recovers, but for what only a sliced model needs."""
    stages = [{**stage, "settings": dict(stage["settings"])} for stage in keys["recover"]]
    for stage in stages:
        assert stage["settings"].pop("trust_remote_code", True) is True
    return stages


def backend_of(model):
    return keys_of(file_of(model, "control"))["recover"][0]["backend"]


def documents_seen(plan, num_documents, epochs):
    """Return how many documents all rounds together train on, each epoch counted."""
    parts = cut_documents(num_documents, plan.weights, seed=0)
    assert len(plan.rounds) == plan.rounds[-1].spec.index
    return sum(len(part) for part in parts) * epochs


def epochs_of(stage):
    settings = stage.settings
    return settings["grpo"]["epochs"] if "grpo" in settings else settings["num_train_epochs"]


@pytest.mark.parametrize(("model", "name"), RECIPES)
def test_the_plan_ends_in_the_shape_that_the_recipe_tells(planned, model, name):
    path = file_of(model, name)
    end = planned(path, CONFIGS[model]).rounds[-1].geometry
    told = ENDS.search(header(path))
    assert told
    assert (end.num_layers, end.width) == (int(told[1]), int(told[2]))
    assert end.hidden == int(told[3] or CONFIGS[model]["hidden_size"])
    assert f"{end.num_parameters / 1e9:.2f}" == told[4]


@pytest.mark.parametrize(("model", "name"), RECIPES)
def test_every_number_of_a_recipe_names_its_source(model, name):
    body = file_of(model, name).read_text(encoding="utf-8").split("\n\n", maxsplit=1)[1]
    lines = [line for line in body.splitlines() if re.search(r"[:\[ ]\d", line.split(" # ")[0])]
    assert len(lines) > 6
    assert [line for line in lines if not SOURCED.search(line)] == []


@pytest.mark.parametrize(
    ("model", "left", "tera"), [("llama3_8b", 22, 6.4), ("gemma2_9b", 26, 7.6)]
)
def test_shortgpt_has_the_papers_size(planned, model, left, tera):
    """The #FLOPs of GSM8K in Table 1, at the tokens of docs/reproduce.md."""
    tokens = {"llama3_8b": 605, "gemma2_9b": 622}[model]
    (only,) = planned(file_of(model, "shortgpt"), CONFIGS[model]).rounds
    assert only.geometry.num_layers == left
    assert only.geometry.flops_per_token * tokens / 1e12 == pytest.approx(tera, abs=0.05)


def test_without_a_size_in_the_paper_shortgpt_has_that_of_ptl(planned):
    short, ours = (
        planned(file_of("qwen2_5_7b", name), CONFIGS["qwen2_5_7b"]).rounds[-1].geometry
        for name in ("shortgpt", "ptl_grpo_verl")
    )
    layer = (short.num_parameters - ours.num_parameters) / ours.num_parameters
    assert abs(layer) < 0.005
    assert "within 0.5 %" in header(file_of("qwen2_5_7b", "shortgpt"))


@pytest.mark.parametrize("model", CONFIGS)
def test_shortgpt_removes_its_layers_at_once_by_block_influence(planned, model):
    (only,) = planned(file_of(model, "shortgpt"), CONFIGS[model]).rounds
    (cut,) = only.spec.cuts
    assert (cut.unit, cut.criterion, cut.selector) == ("layer", "block_influence", "count")


@pytest.mark.parametrize("model", CONFIGS)
def test_the_control_cuts_nothing_in_any_round(planned, model):
    plan = planned(file_of(model, "control"), CONFIGS[model])
    assert all(not each.spec.cuts for each in plan.rounds)
    assert {each.geometry for each in plan.rounds} == {plan.original}


@pytest.mark.parametrize("model", CONFIGS)
def test_prune_once_is_the_total_of_ptls_rounds_in_one(planned, model):
    """In steps of 1000 neurons and one layer, as many rounds as the control has."""
    (only,) = planned(file_of(model, "prune_once"), CONFIGS[model]).rounds
    cuts = {cut.unit: cut for cut in only.spec.cuts}
    steps = cuts["neuron"].amount / 1000 + (cuts["layer"].amount if "layer" in cuts else 0)
    assert steps == len(planned(file_of(model, "control"), CONFIGS[model]).rounds)
    assert cuts["neuron"].criterion == "activation_max"
    assert "layer" not in cuts or cuts["layer"].criterion == "l2"


@pytest.mark.parametrize("model", CONFIGS)
def test_prune_once_ends_in_the_shape_of_ptls_own_recipe(planned, model):
    """Of those that recover by the same backend alone."""
    (only,) = planned(file_of(model, "prune_once"), CONFIGS[model]).rounds
    own = [p for p in siblings(model, backend_of(model)) if p.name.startswith("ptl_")]
    assert own
    ends = {planned(path, CONFIGS[model]).rounds[-1].geometry for path in own}
    assert ends <= {only.geometry}


@pytest.mark.parametrize("model", CONFIGS)
def test_all_recipes_of_a_model_recover_on_the_same_documents(planned, model):
    """Rounds times part is the whole corpus, but for what does not fill a round."""
    backend, seen = backend_of(model), {}
    paths = siblings(model, backend)
    by_grpo = backend == "verl"  # of which no rollout loads a sliced model
    baselines = [name for name in BASELINES if not (by_grpo and name == "slicegpt")]
    assert {file_of(model, name) for name in baselines} <= set(paths)
    most = 0
    for path in paths:
        plan = planned(path, CONFIGS[model])
        (stage,) = plan.recipe.stages
        assert all(plan.recipe.stages_in(each.spec.index) for each in plan.rounds)
        seen[path.stem] = documents_seen(plan, CORPUS[backend], epochs_of(stage))
        most = max(most, (len(plan.rounds) - 1) * epochs_of(stage))
    assert max(seen.values()) - min(seen.values()) <= most
    assert max(seen.values()) == CORPUS[backend] * epochs_of(stage)


@pytest.mark.parametrize("model", CONFIGS)
def test_all_recipes_of_a_model_have_the_same_settings_and_data(model):
    recipes = [keys_of(path) for path in siblings(model, backend_of(model))]
    assert len(recipes) >= 3
    for key in ("model", "data"):
        assert all(recipe[key] == recipes[0][key] for recipe in recipes), key
    assert all(recovery(recipe) == recovery(recipes[0]) for recipe in recipes)


def test_where_grpo_recovers_slicegpt_has_the_pre_training_of_the_other_recipe(planned, plugins):
    path = file_of("qwen2_5_7b", "slicegpt")
    (stage,) = recovery(keys_of(path))
    (other, *_) = recovery(keys_of(file_of("qwen2_5_7b", "ptl_cpt_then_grpo")))
    assert other.pop("rounds") == [1, 12]
    assert stage == other
    assert keys_of(path)["data"] == keys_of(file_of("qwen2_5_7b", "ptl_cpt_then_grpo"))["data"]


def test_slicegpt_with_grpo_is_refused(planned, tmp_path):
    keys = keys_of(file_of("qwen2_5_7b", "slicegpt"))
    keys["recover"] = keys_of(file_of("qwen2_5_7b", "control"))["recover"]
    (tmp_path / "sliced.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    with pytest.raises(RecipeError, match="rollout cannot load a sliced model"):
        planned(tmp_path / "sliced.yaml", CONFIGS["qwen2_5_7b"])


@pytest.mark.parametrize("model", CONFIGS)
def test_a_baseline_is_profiled_on_as_many_sequences_as_all_rounds_of_ptl(planned, model):
    rounds = len(planned(file_of(model, "control"), CONFIGS[model]).rounds)
    for name in ("shortgpt", "prune_once", "slicegpt"):
        keys = keys_of(file_of(model, name))
        assert keys["calibration"] == {"num_sequences": 10 * rounds, "max_length": 1024}


def test_the_numbers_of_pre_training_are_the_papers(plugins):
    manager, registry = plugins
    stages = [
        read_recipe(file_of(model, name), manager.hook, registry, thorough=False).stages[0]
        for model, name in RECIPES
        if backend_of(model) == "llamafactory"
    ]
    settings = stages[0].settings
    assert len(stages) == 8
    only_sliced = {"trust_remote_code": True}
    assert all(stage.settings in (settings, {**settings, **only_sliced}) for stage in stages)
    assert (settings["learning_rate"], settings["cutoff_len"]) == (8e-6, 1024)
    per_step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert all(per_step * stage.launch.processes == 32 for stage in stages)
    assert (settings["lr_scheduler_type"], settings["bf16"]) == ("cosine", True)
    file = Path(settings["deepspeed"])
    zero = json.loads((recipes_folder() / Path(*file.parts[1:])).read_text(encoding="utf-8"))
    assert zero["zero_optimization"]["stage"] == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["shortgpt", "slicegpt"])
def test_llamafactorys_parser_takes_the_pre_training(plugins, name):
    manager, registry = plugins
    path = file_of("llama3_8b", name)
    (stage,) = read_recipe(path, manager.hook, registry, thorough=False).stages
    assert stage.settings.get("trust_remote_code", False) is (name == "slicegpt")
    assert LlamaFactory().check_thoroughly(stage) is None


# --- the small ones, which run on a CPU ---


@pytest.fixture
def small(planned):
    """Plan a recipe of the quickstart."""
    return lambda name: planned(QUICKSTART / f"smollm2_135m{name}.yaml", SMOLLM2)


def test_the_small_prune_once_ends_in_the_shape_of_the_small_loop(small):
    loop, once = small(""), small("_prune_once")
    assert once.rounds[-1].geometry == loop.rounds[-1].geometry
    assert (len(once.rounds), len(loop.rounds)) == (1, 5)


def test_the_small_shortgpt_has_the_size_of_the_small_loop(small):
    loop, short = (small(name).rounds[-1].geometry for name in ("", "_shortgpt"))
    assert short.num_parameters == pytest.approx(loop.num_parameters, rel=0.005)
    told = header(QUICKSTART / "smollm2_135m_shortgpt.yaml")
    sizes = f"{short.num_parameters / 1e6:.1f} M parameters, the end of smollm2_135m.yaml has "
    assert sizes + f"{loop.num_parameters / 1e6:.1f} M" in told


def test_the_small_slicegpt_has_the_size_of_the_small_loop_and_its_training(small):
    loop, (only,) = small("").rounds[-1].geometry, small("_slicegpt").rounds
    assert only.geometry.num_parameters == pytest.approx(loop.num_parameters, rel=0.005)
    told = header(QUICKSTART / "smollm2_135m_slicegpt.yaml")
    size = f"{only.geometry.num_parameters / 1e6:.1f} M parameters"
    assert f"Hidden size {only.geometry.hidden} of 576, {size}" in told
    one, other = (keys_of(QUICKSTART / f"smollm2_135m_{n}.yaml") for n in ("run", "slicegpt"))
    assert recovery(one) == recovery(other)
    assert (one["data"], one["evaluate"]) == (other["data"], other["evaluate"])


@pytest.mark.parametrize("name", ["_control", "_shortgpt", "_prune_once"])
def test_the_small_baselines_recover_on_the_same_documents(small, name):
    seen = {
        documents_seen(small(each), QUICKSTART_CORPUS, keys["num_train_epochs"])
        for each in ("", name)
        for keys in [keys_of(QUICKSTART / f"smollm2_135m{each}.yaml")]
    }
    assert seen == {QUICKSTART_CORPUS}


@pytest.mark.parametrize("name", ["_control", "_shortgpt", "_prune_once"])
def test_the_small_baselines_differ_in_the_output_and_the_section_alone(name):
    loop, other = (keys_of(QUICKSTART / f"smollm2_135m{each}.yaml") for each in ("", name))
    sections = loop.pop("ptl"), other.pop("ptl")
    assert loop.pop("output_dir") != other.pop("output_dir")
    assert loop == other
    assert sections[0]["evaluate"]["tasks"] == sections[1]["evaluate"]["tasks"]


def test_the_quickstarts_corpus_is_the_one_that_is_counted():
    from ptl_plugins.quickstart.run import NUM_TRAINING

    assert NUM_TRAINING == QUICKSTART_CORPUS
