"""The full-size recipes against the paper's numbers, and against each other."""

from __future__ import annotations

import dataclasses
import re

import pytest
from shipped import ALL, FOLDER, FULL_SIZE, header, keys_of

from ptl_plugins.preflight import plan_run
from ptl_plugins.recipe_file import read_recipe

BASE = FOLDER / "paper" / "gemma2_9b" / "ptl_cpt.yaml"
ABLATION = FOLDER / "ablation" / "gemma2_9b"


# --- the shapes, against the paper ---

ABOUT_5B = {
    "paper/llama3_8b/ptl_cpt.yaml": True,
    "paper/gemma2_9b/ptl_cpt.yaml": True,
    "paper/qwen2_5_7b/ptl_grpo_verl.yaml": True,
    "paper/qwen2_5_7b/ptl_grpo_easyr1.yaml": True,
    "paper/qwen2_5_7b/ptl_cpt_then_grpo.yaml": False,
    "paper/llama3_8b/shortgpt.yaml": False,
    "paper/llama3_8b/slicegpt.yaml": True,
    "paper/llama3_8b/prune_once.yaml": True,
    "paper/gemma2_9b/prune_once.yaml": True,
    "paper/gemma2_9b/shortgpt.yaml": False,
    "paper/gemma2_9b/slicegpt.yaml": True,
    "paper/qwen2_5_7b/prune_once.yaml": True,
    "paper/qwen2_5_7b/shortgpt.yaml": True,
    "paper/qwen2_5_7b/slicegpt.yaml": True,
    "paper/qwen2_5_7b/ptl_algorithm1_verl.yaml": False,
    "code/llama3_8b/ptl_cpt.yaml": False,
    "code/llama3_8b/shortgpt.yaml": False,
}
"""What the paper calls 5B: whether the shape's parameters, in whole billions, are 5."""
TOKENS = {"llama3_8b": (605, 566, 566), "gemma2_9b": (622, 568, 562), "qwen2_5_7b": (636, 580, 580)}
"""Of GSM8K, Minerva Math and MATH-500: docs/reproduce.md."""
CELLS = {
    "paper/llama3_8b/control.yaml": ((9.1, 8.5, 8.5), 0.0),
    "paper/llama3_8b/ptl_cpt.yaml": ((6.3, 5.9, 5.9), -0.9),
    "paper/llama3_8b/shortgpt.yaml": ((6.4, 6.0, 6.0), 0.0),
    "paper/llama3_8b/slicegpt.yaml": ((4.5, 4.1, 4.1), 1.2),
    "paper/llama3_8b/prune_once.yaml": ((5.8, 5.4, 5.4), -0.4),
    "paper/gemma2_9b/control.yaml": ((11.5, 10.5, 10.4), 0.0),
    "paper/gemma2_9b/ptl_cpt.yaml": ((6.1, 5.6, 5.5), 0.1),
    "paper/gemma2_9b/shortgpt.yaml": ((7.6, 6.8, 6.7), 0.1),
    "paper/gemma2_9b/slicegpt.yaml": ((5.9, 5.3, 5.2), 0.1),
    "paper/gemma2_9b/prune_once.yaml": ((6.5, 6.0, 5.9), -0.3),
    "paper/qwen2_5_7b/control.yaml": ((9.0, 8.2, 8.2), 0.0),
    "paper/qwen2_5_7b/ptl_grpo_verl.yaml": ((4.9, 4.5, 4.5), 0.3),
    "paper/qwen2_5_7b/ptl_grpo_easyr1.yaml": ((4.9, 4.5, 4.5), 0.3),
    "paper/qwen2_5_7b/prune_once.yaml": ((4.9, 4.5, 4.5), 0.3),  # of PTL: its own are empty
    "paper/qwen2_5_7b/shortgpt.yaml": ((4.9, 4.5, 4.5), 0.2),  # likewise
    "paper/qwen2_5_7b/slicegpt.yaml": ((4.9, 4.5, 4.5), 0.5),  # likewise
    "paper/qwen2_5_7b/ptl_cpt_then_grpo.yaml": ((4.9, 4.5, 4.5), -0.1),  # of Table 1's row
    "paper/qwen2_5_7b/ptl_algorithm1_verl.yaml": ((4.9, 4.5, 4.5), -0.1),  # likewise
    "paper/qwen2_5_7b/ptl_cpt_released.yaml": ((4.9, 4.5, 4.5), -0.1),  # likewise
}
"""Table 1's cells of #FLOPs in T, and what the recipe's shape gives more of them at most."""


def tera(geometry, tokens):
    return round(geometry.flops_per_token * tokens / 1e12, 1)


@pytest.mark.parametrize(("name", "is_5b"), ABOUT_5B.items())
def test_the_paper_calls_it_5b_and_so_it_is_or_is_not(planned, name, is_5b):
    assert (round(planned(name).rounds[-1].geometry.num_parameters / 1e9) == 5) is is_5b


@pytest.mark.parametrize(("name", "cells"), CELLS.items())
def test_the_flops_are_the_papers_or_differ_by_what_is_told(planned, name, cells):
    geometry = planned(name).rounds[-1].geometry
    paper, difference = cells
    more = [
        tera(geometry, tokens) - cell
        for tokens, cell in zip(TOKENS[name.split("/")[1]], paper, strict=True)
    ]
    assert max(more, key=abs) == pytest.approx(difference, abs=1e-9)


def test_the_code_tasks_flops_are_the_papers(planned):
    cells = {"control": 2.8, "shortgpt": 2.0, "ptl_cpt": 1.9}
    shapes = {n: planned(f"code/llama3_8b/{n}.yaml").rounds[-1].geometry for n in cells}
    assert {name: tera(shape, 186) for name, shape in shapes.items()} == cells


def test_five_rounds_of_neurons_give_llamas_flops_as_the_recipe_says(planned, workplace, plugins):
    name = "paper/llama3_8b/ptl_cpt.yaml"
    manager, registry = plugins
    words = ["schedule.0.rounds=5"]
    recipe = read_recipe(ALL[name], manager.hook, registry, thorough=False, overrides=words)
    assert f"--set {words[0]}" in header(ALL[name])
    planned(name)  # writes the config
    plan = plan_run(dataclasses.replace(recipe, model=str(workplace)), registry)
    end = plan.rounds[-1].geometry
    assert [tera(end, tokens) for tokens in TOKENS["llama3_8b"]] == [6.3, 5.9, 5.9]


# --- those that must share settings ---


def without(keys, *names):
    return {name: value for name, value in keys.items() if name not in names}


def test_the_ablations_differ_from_table_1s_run_in_what_they_compare_alone():
    base = keys_of(BASE)
    assert without(keys_of(ABLATION / "fig3_every_round.yaml"), "evaluate") == without(
        base, "evaluate"
    )
    for name in ("table3_layer_neuron", "table3_alternating"):
        assert without(keys_of(ABLATION / f"{name}.yaml"), "order") == without(base, "order")
    for name in ("fig4_step_10", "fig4_step_20"):
        other = keys_of(ABLATION / f"{name}.yaml")
        differing = ("order", "schedule", "evaluate")
        assert without(other, *differing) == without(base, *differing)
        assert other["evaluate"]["tasks"] == base["evaluate"]["tasks"]


def cuts_of(plan):
    return [(cut.unit, cut.amount) for each in plan.rounds for cut in each.spec.cuts]


def test_the_three_orders_have_the_same_cuts_and_the_papers_order(planned):
    names = ("fig3_every_round", "table3_layer_neuron", "table3_alternating")
    neu_lay, lay_neu, alternating = (
        cuts_of(planned(f"ablation/gemma2_9b/{n}.yaml")) for n in names
    )
    neurons, layer = ("neuron", 1000.0), ("layer", 1.0)
    assert neu_lay == [neurons] * 9 + [layer] * 2
    assert lay_neu == [layer] * 2 + [neurons] * 9
    assert alternating == [neurons, layer] * 2 + [neurons] * 7


def test_the_steps_are_5_10_and_20_percent_and_end_in_the_same_shape(planned):
    names = {5: "fig3_every_round", 10: "fig4_step_10", 20: "fig4_step_20"}
    plans = {step: planned(f"ablation/gemma2_9b/{name}.yaml") for step, name in names.items()}
    assert len({plan.rounds[-1].geometry for plan in plans.values()}) == 1
    for step, plan in plans.items():
        first = plan.rounds[0].geometry.num_parameters / plan.original.num_parameters
        assert 100 * (1 - first) == pytest.approx(step, rel=0.03)
    assert [len(plan.rounds) for plan in plans.values()] == [11, 7, 5]


def test_the_code_recipes_differ_from_each_other_in_the_cuts_alone():
    folder = FOLDER / "code" / "llama3_8b"
    recipes = [keys_of(folder / f"{name}.yaml") for name in ("ptl_cpt", "shortgpt", "control")]
    math = keys_of(FOLDER / "paper" / "llama3_8b" / "ptl_cpt.yaml")
    for keys in recipes:
        assert keys["recover"] == math["recover"]
        assert keys["data"] == {"path": "data/opc_starcoder"}
        assert keys["evaluate"]["tasks"] == recipes[0]["evaluate"]["tasks"]
    differing = ("data", "schedule", "evaluate")
    assert without(recipes[0], *differing) == without(math, *differing)


PAPERS_RULES = {"neuron": "activation_max", "layer": "l2", "hidden": "slicegpt"}


@pytest.mark.parametrize("name", [name for name in FULL_SIZE if "released" not in name])
def test_a_recipe_of_the_paper_cuts_by_its_rules_and_refits_nothing(planned, name):
    """Eq. 4 and 6; the baselines by their own."""
    rules = PAPERS_RULES | ({"layer": "block_influence"} if "shortgpt" in name else {})
    recipe = planned(name).recipe
    cuts = [cut for each in recipe.rounds for cut in each.cuts]
    assert [cut for cut in cuts if cut.criterion != rules[cut.unit]] == []
    neurons_go = any(cut.unit == "neuron" for cut in cuts)
    assert recipe.refit == "none" or not neurons_go
    assert recipe.protect is None


@pytest.mark.parametrize("name", [name for name in FULL_SIZE if "released" not in name])
def test_the_pre_training_has_the_papers_numbers_and_else_the_scripts(name):
    stages = [s for s in keys_of(FULL_SIZE[name])["recover"] if s["backend"] == "llamafactory"]
    for stage in stages:
        settings = dict(stage["settings"])
        assert settings.pop("trust_remote_code", None) is (True if "slicegpt" in name else None)
        assert stage["launch"] == {"processes": 4}
        assert settings == {
            "bf16": True, "cutoff_len": 1024, "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4, "learning_rate": 8e-6, "num_train_epochs": 1.0,
            "lr_scheduler_type": "cosine", "warmup_ratio": 0.05,
            "deepspeed": "recipes/paper/zero2.json", "disable_gradient_checkpointing": False,
        }  # fmt: skip


def test_a_released_variant_differs_from_the_papers_in_what_the_scripts_tell():
    for model in ("llama3_8b", "gemma2_9b"):
        paper, released = (
            keys_of(FOLDER / "paper" / model / f"{name}.yaml")
            for name in ("ptl_cpt", "ptl_cpt_released")
        )
        differing = ("data", "calibration", "protect", "schedule", "recover", "evaluate")
        assert without(released, *differing) == without(paper, *differing)
        assert released["evaluate"]["tasks"] == paper["evaluate"]["tasks"]
        for stage in released["recover"]:
            told = without(stage["settings"], "cutoff_len", "learning_rate")
            ours = paper["recover"][0]["settings"]
            assert told == without(ours, "cutoff_len", "learning_rate")
            assert stage["settings"]["cutoff_len"] == 512
    llama = keys_of(FOLDER / "paper" / "llama3_8b" / "ptl_cpt_released.yaml")["recover"]
    rates = [(stage["rounds"], stage["settings"]["learning_rate"]) for stage in llama]
    assert rates == [([1, 3], 4e-6), ([4, 6], 8e-6)]


LESS = {"llama3_8b": (12000, 12000, 11000, 10000), "qwen2_5_7b": tuple(range(16000, 6000, -1000))}
"""The scripts' `top_n` of each round; of Gemma2 none is told."""


@pytest.mark.parametrize("name", [name for name in ALL if "released" in name])
def test_a_released_variant_is_the_scripts_rule_by_index_with_a_top_n_for_each_round(name):
    keys = keys_of(ALL[name])
    neurons = keys["schedule"][0]
    assert (neurons["criterion"], neurons["amount"]) == ("released_by_index", 1000)
    assert keys["refit"] == "none"
    assert keys["calibration"]["num_sequences"] == 10
    protect, model = keys["protect"], name.split("/")[1]
    assert (protect["data"], protect["num_sequences"]) == ("data/english", 1000)
    assert len(protect["top"]) == neurons["rounds"]
    assert tuple(protect["top"]) == LESS.get(model, tuple(range(12000, 3000, -1000)))
    assert [(p["criterion"], p["amount"]) for p in keys["schedule"][1:]] in ([], [("last", 1)])
    for stage in keys["recover"]:
        if stage["backend"] == "llamafactory":
            assert stage["settings"]["cutoff_len"] == 512
            first = (stage.get("rounds") or [1])[0]
            rate = {"gemma2_9b": 8e-6, "qwen2_5_7b": 4e-6, "llama3_8b": 4e-6 if first < 4 else 8e-6}
            assert stage["settings"]["learning_rate"] == rate[model]


def test_what_the_paper_does_not_say_is_no_number_of_the_papers():
    """Sizes that only fit its FLOPs, the length of calibration texts, what EasyR1 has by itself."""
    ours = (
        r"max_length: (1024|512)",
        r"amount: (10|16|0\.\d+|2000|4000|10000)",
        "clip_ratio_high: 0.3",
    )
    found = [
        line.strip()
        for name, path in FULL_SIZE.items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"\b({'|'.join(ours)}) ", line)
    ]
    assert len(found) > 30
    assert [line for line in found if "# PTL: " not in line] == []


def test_the_released_grpo_differs_from_the_papers_in_start_rule_and_protect_set():
    paper, released = (
        keys_of(FOLDER / "paper" / "qwen2_5_7b" / f"{name}.yaml")
        for name in ("ptl_grpo_easyr1", "ptl_grpo_easyr1_released")
    )
    assert [phase.pop("criterion") for phase in released["schedule"]] == ["released_by_index"]
    assert [phase.pop("criterion") for phase in paper["schedule"]] == ["activation_max"]
    assert without(released, "model", "protect") == without(paper, "model")
