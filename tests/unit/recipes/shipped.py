"""The shipped recipes, the models that they name by config alone, and what a run of one costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import yaml

from ptl_plugins.disk_plan import plan_disk
from ptl_plugins.preflight import Plan, plan_run
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.shipped_recipes import recipe_files, recipes_folder

FOLDER = recipes_folder()
ALL = {str(path.relative_to(FOLDER)): path for path in recipe_files()}
FULL_SIZE = {
    name: path for name, path in ALL.items() if name.startswith(("paper/", "ablation/", "code/"))
}
QWEN = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
CONFIGS = {
    "meta-llama/Meta-Llama-3-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "tie_word_embeddings": False,
    },
    "google/gemma-2-9b": {
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
        "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256, "vocab_size": 256000, "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B": QWEN,
    "hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zoo": QWEN,
    "quickstart/model": SMOLLM2,
    "mini/model": SMOLLM2,
}  # fmt: skip
"""Sizes as published, by the name that a recipe has."""

# --- the assumptions of docs/reproduce.md ---

FLOPS_PER_WEIGHT_AND_TOKEN = 8
"""Forward 2, backward 4, and the forward once more for gradient checkpointing."""
A100_FLOPS, UTILISATION = 312e12, 0.4
TOKENS_PER_DOCUMENT = {"numina_metamath": 410, "opc_starcoder": 680}
DOCUMENTS = {
    "data/numina_metamath": 1_254_494,
    "data/released/numina_metamath": None,
    "data/opc_starcoder": 586_000,
}
"""None: 100,000 a round. Of opc-sft-stage2 about 436,000 are taken, which nobody counted here."""
MATH12K, GRPO_STEP_SECONDS = 12_000, 64 * 3600 / 1350
"""The paper's 64 hours over its ten rounds of 135 steps."""


def keys_of(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


def plan_of(path: Path, folder: Path, manager, registry) -> Plan:
    """Plan a recipe against the config of the model that it names, put into `folder`."""
    recipe = read_recipe(path, manager.hook, registry, thorough=False)
    config = {**CONFIGS[recipe.model], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return plan_run(dataclasses.replace(recipe, model=str(folder)), registry)


def expected_hours(plan: Plan) -> float:
    """Return the hours of recovery, of pre-training by its FLOPs and of GRPO by its steps."""
    return sum(_stage_hours(plan, stage) for stage in plan.recipe.stages)


def _stage_hours(plan: Plan, stage) -> float:
    rounds = [each for each in plan.rounds if stage.is_in(each.spec.index)]
    if "grpo" in stage.settings:
        grpo = stage.settings["grpo"]
        steps = MATH12K // len(rounds) // grpo["prompts_per_step"] * grpo["epochs"]
        return len(rounds) * steps * GRPO_STEP_SECONDS / 3600
    path = plan.recipe.data.path
    documents = (DOCUMENTS[path] or 100_000 * len(plan.rounds)) / len(plan.rounds)
    tokens = documents * TOKENS_PER_DOCUMENT[Path(path).name]
    tokens *= stage.settings["num_train_epochs"]
    weights = sum(each.geometry.flops_per_token / 2 for each in rounds)
    speed = stage.launch.processes * A100_FLOPS * UTILISATION
    return FLOPS_PER_WEIGHT_AND_TOKEN * weights * tokens / speed / 3600


def expected_disk(plan: Plan) -> tuple[int, int]:
    """Return GB at most and at the end, but for the parts of the corpus."""
    disk = plan_disk(plan)
    return round(disk.highest.peak / 1e9), round(disk.rounds[-1].after / 1e9)
