"""Asks every stage's backend whether its framework's own parser takes the settings.

Where the recipe has a teacher, the interpreter is asked whether it can distil as well.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import yaml

from ptl_plugins.distillation.teacher_check import untaught_interpreter
from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.registry import Registry
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import LaunchSpec, StageSpec
from ptl_plugins.types import Recipe, RoundContext

LOCAL = LaunchSpec().launcher
"""Where a stage's interpreter is this machine's."""

logger = logging.getLogger(__name__)


class NotCheckedError(PTLError):
    """A backend's framework is not there to be asked; the text says where it was sought."""


def check_stages(
    recipe: Recipe, registry: Registry, *, starts_here: bool = False
) -> tuple[str, ...]:
    """Let the frameworks' parsers read the settings; return why some could not be, once each.

    Args:
        recipe: its stages.
        registry: their backends.
        starts_here: whether the stages are about to run: one of this machine whose framework is
            not there is a problem then.

    Raises:
        RecipeError: one line per problem.
    """
    problems: list[str] = []
    unchecked: list[str] = []
    for index, stage in enumerate(recipe.stages):
        try:
            found = registry.backends.get(stage.backend).check_thoroughly(_whole(recipe, stage))
        except NotCheckedError as error:
            if starts_here and stage.launch.launcher == LOCAL:
                problems.append(_placed(recipe, index, f"python: {error}"))
            else:
                unchecked.append(str(error))
        else:
            found = found or untaught_interpreter(recipe, stage, registry)
            problems += [_placed(recipe, index, line) for line in (found or "").splitlines()]
    if problems:
        raise RecipeError("\n".join(f"{recipe.source}: {line}" for line in problems))
    return tuple(dict.fromkeys(unchecked))


def check_unfinished(recipe: Recipe, registry: Registry, run: RunFolder) -> None:
    """Do so when rounds are left to run; what could not be checked is logged.

    Raises:
        RecipeError: one line per problem.
    """
    if run.num_finished() < len(recipe.rounds):
        for reason in check_stages(recipe, registry, starts_here=run.writes):
            logger.warning("%s: %s", recipe.source, reason)


def check_jobs(start: RoundContext, model: Path) -> None:
    """Let every backend describe the first job that is left to it, and throw that away.

    Data of a stage's own that cannot be read are found so before anything is pruned or trained.

    Args:
        start: the context of round 0.
        model: any checkpoint; none is read.

    Raises:
        RecipeError: one line per problem.
    """
    recipe, problems = start.recipe, []
    left = recipe.rounds[start.run.num_finished() :]
    for index, stage in enumerate(recipe.stages):
        spec = next((spec for spec in left if stage.is_in(spec.planned)), None)
        if spec is None:
            continue
        ctx = start.for_round(spec)
        try:
            backend = start.registry.backends.get(stage.backend)
            backend.job(ctx, stage, model, ctx.folder / f"stage_{index}")
        except PTLError as error:
            problems.append(f"{recipe.source}: recover.{index}: {error}")
    if problems:
        raise RecipeError("\n".join(problems))


def _whole(recipe: Recipe, stage: StageSpec) -> StageSpec:
    """Return the stage with all keys of a framework's own yaml, those that may change as well."""
    if recipe.data is not None:
        return stage
    keys = yaml.safe_load(recipe.text)
    return replace(stage, settings={k: v for k, v in keys.items() if k != "ptl"})


def _placed(recipe: Recipe, index: int, line: str) -> str:
    if recipe.data is not None:
        return f"recover.{index}.{line}"
    return line.removeprefix("settings.").removeprefix("settings: ")
