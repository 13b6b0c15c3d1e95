"""Asks every stage's backend whether its framework's own parser takes the settings."""

from __future__ import annotations

import logging
from dataclasses import replace

import yaml

from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.registry import Registry
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import Recipe

logger = logging.getLogger(__name__)


class NotCheckedError(PTLError):
    """A backend's framework is not there to be asked; the text says where it was sought."""


def check_stages(recipe: Recipe, registry: Registry) -> tuple[str, ...]:
    """Let the frameworks' parsers read the settings; return why some could not be, once each.

    Raises:
        RecipeError: one line per problem.
    """
    problems: list[str] = []
    unchecked: list[str] = []
    for index, stage in enumerate(recipe.stages):
        try:
            found = registry.backends.get(stage.backend).check_thoroughly(_whole(recipe, stage))
        except NotCheckedError as error:
            unchecked.append(str(error))
        else:
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
        for reason in check_stages(recipe, registry):
            logger.warning("%s: %s", recipe.source, reason)


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
