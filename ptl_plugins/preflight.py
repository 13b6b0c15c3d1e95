"""What can be known about a run before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.model_config import config_path, read_config
from ptl_plugins.registry import Registry
from ptl_plugins.schedule import PlannedRound, plan_rounds
from ptl_plugins.shares import part_weights
from ptl_plugins.slicegpt.refusals import why_not_sliced
from ptl_plugins.stage_types import ModelChecker, StageModel, StageSpec
from ptl_plugins.types import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A recipe held against its model's config."""

    recipe: Recipe
    family: Family
    original: Geometry
    rounds: tuple[PlannedRound, ...]
    weights: tuple[int, ...]
    """Of the rounds' parts of the corpus: a part's share is its weight over their sum."""


def plan_run(recipe: Recipe, registry: Registry) -> Plan:
    """Read the model's config and work out every round's shape.

    Raises:
        RecipeError: the model cannot be found or is of no known family, or a round cannot be
            reached, or a stage's backend refuses a shape; the line names the file and the key.
    """
    where = recipe.source
    key = "model" if recipe.data else "model_name_or_path"
    section = "" if recipe.data else "ptl."
    try:
        config = read_config(recipe.model)
        family = find_family(registry, config, recipe.family)
        original = geometry(config, family)
        quantised = config.get("quantization_config")
    except PTLError as error:
        raise RecipeError(f"{where}: {key}: {error}") from error
    if quantised:
        raise RecipeError(
            f"{where}: {key}: '{recipe.model}' is quantised, and a quantised model "
            "cannot be pruned; give the full-precision one"
        )
    try:
        rounds = plan_rounds(
            recipe.rounds,
            original,
            registry,
            multiple_of=recipe.multiple_of,
            protect_top=recipe.protect.top if recipe.protect else 0,
        )
    except PTLError as error:
        raise RecipeError(f"{where}: {section}schedule: {error}") from error
    if refusal := why_not_sliced(recipe, family, config):
        raise RecipeError(f"{where}: {section}schedule: {refusal}")
    try:
        weights = part_weights(recipe, original, registry)
    except PTLError as error:
        raise RecipeError(f"{where}: {section}tokens: {error}") from error
    plan = Plan(recipe=recipe, family=family, original=original, rounds=rounds, weights=weights)
    _require_stages_fit(plan, config, registry)
    return plan


def _require_stages_fit(plan: Plan, config: Mapping[str, Any], registry: Registry) -> None:
    """Let the backends of `ptl run` look at the shapes that they will be given."""
    recipe, problems = plan.recipe, []
    if recipe.data is None:  # a framework's own door, which no backend is asked for
        return
    folder = config_path(recipe.model).parent
    for index, stage in enumerate(recipe.stages):
        backend = registry.backends.get(stage.backend)
        if isinstance(backend, ModelChecker):
            model = StageModel(
                config=config,
                folder=folder,
                shapes=_shapes(plan, stage),
                sliced=_is_sliced(plan, stage),
            )
            found = backend.check_model(stage, model) or ""
            problems += [f"{recipe.source}: recover.{index}.{line}" for line in found.splitlines()]
    if problems:
        raise RecipeError("\n".join(problems))


def _shapes(plan: Plan, stage: StageSpec) -> tuple[Geometry, ...]:
    """Return the shapes that the rounds of a stage leave, as far as they are known."""
    rounds = (each for each in plan.rounds if stage.is_in(each.spec.planned))
    return tuple(dict.fromkeys(each.geometry for each in rounds if each.geometry))


def _is_sliced(plan: Plan, stage: StageSpec) -> bool:
    """Return whether the model is sliced in a round of the stage, whatever the scores tell."""
    if plan.original.sliced_from is not None:
        return True
    last = stage.rounds[1] if stage.rounds else len(plan.rounds)
    up_to_last = (each.spec for each in plan.rounds if each.spec.planned <= last)
    return any(cut.unit == "hidden" for spec in up_to_last for cut in spec.cuts)
