"""The full-size recipes against the paper's numbers, and against each other."""

from __future__ import annotations

import dataclasses

import pytest
from shipped import ALL, FOLDER, header, keys_of

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


def test_the_released_grpo_differs_from_the_papers_in_start_rule_and_protect_set():
    paper, released = (
        keys_of(FOLDER / "paper" / "qwen2_5_7b" / f"{name}.yaml")
        for name in ("ptl_grpo_easyr1", "ptl_grpo_easyr1_released")
    )
    assert released["protect"] == {"data": "data/english", "num_sequences": 1000, "top": 7000}
    assert [phase.pop("criterion") for phase in released["schedule"]] == ["released"]
    assert [phase.pop("criterion") for phase in paper["schedule"]] == ["activation_max"]
    assert without(released, "model", "protect") == without(paper, "model")
