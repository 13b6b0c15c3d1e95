"""All checks of a LLaMA-Factory run that need no model in memory, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafactory_ext import patches
from llamafactory_ext.launching import NOTE_VARIABLE
from llamafactory_ext.recipe import read_llamafactory_recipe
from ptl_plugins.disk_check import require_space
from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.given_path import given_path
from ptl_plugins.half_steps import with_half_steps
from ptl_plugins.manager import PTLPluginManager, build_manager, build_registry
from ptl_plugins.preflight import Plan, plan_run
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.registry import Registry
from ptl_plugins.run_folder import MANIFEST, RunFolder
from ptl_plugins.run_lock import require_unlocked
from ptl_plugins.shards import require_safetensors
from ptl_plugins.sound_weights import require_sound


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked run: its plan and the plugins it will use."""

    plan: Plan
    manager: PTLPluginManager
    registry: Registry


def preflight(path: Path, keys: Mapping[str, Any], text: str) -> Prepared:
    """Check recipe, model, environment and run folder; write nothing.

    Raises:
        PTLError: one line per problem.
    """
    if (problem := patches.unsupported_version()) is not None:
        raise PTLError(problem)
    manager = build_manager()
    registry = build_registry(manager)
    source = RecipeSource(path=path, keys=keys, text=text, registry=registry)
    recipe = read_llamafactory_recipe(source)
    _check_environment(path)
    run = RunFolder(recipe.run_folder, writes=False)
    run.check(recipe)
    plan = plan_run(with_half_steps(recipe, run), registry)
    _check_weights(path, recipe.model, run)
    _check_output_dir(path, recipe.run_folder)
    if os.environ.get("RANK", "0") == "0":
        require_unlocked(recipe.run_folder)
        require_space(plan, run)
    return Prepared(plan=plan, manager=manager, registry=registry)


def _check_environment(path: Path) -> None:
    for variable in ("ACCELERATE_USE_FSDP", "USE_MCA", "USE_RAY", "USE_KT"):
        if os.environ.get(variable, "0").lower() in ("1", "true", "y"):
            raise RecipeError(
                f"{path}: environment variable {variable} is set, which is not supported with a "
                "ptl: section; unset it and use DDP or DeepSpeed ZeRO-2"
            )


def _check_weights(path: Path, model: str, run: RunFolder) -> None:
    """Refuse a local model of pickled weights; of a hub's, safetensors are taken first.

    Every weight is looked at once: not in the workers, and not where a round is finished.
    """
    folder = given_path(model)
    if folder.is_dir():
        try:
            require_safetensors(folder)
            if not run.num_finished() and not {"RANK", NOTE_VARIABLE} & os.environ.keys():
                require_sound(folder)
        except PTLError as error:
            raise RecipeError(f"{path}: model_name_or_path: {error}") from error


def _check_output_dir(path: Path, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{path}: output_dir: '{folder}' is a file; give a folder")
    if (folder / MANIFEST).exists():
        return
    strangers = [p.name for p in folder.glob("checkpoint-*")] if folder.is_dir() else []
    strangers += [n for n in ("model.safetensors", "config.json") if (folder / n).exists()]
    if strangers:
        raise RecipeError(
            f"{path}: output_dir: '{folder}' holds {strangers[0]} of something that is no PTL run; "
            "choose another folder"
        )
