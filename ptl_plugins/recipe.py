"""The recipe's file edge: pydantic checks it, all errors at once; frozen dataclasses leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from ptl_plugins.criteria import DEFAULT_CRITERION
from ptl_plugins.errors import PTLError, RecipeError
from ptl_plugins.given_path import is_there
from ptl_plugins.health import HealthSpec, OnDivergence
from ptl_plugins.protection import candidates_rule
from ptl_plugins.recipe_errors import explain
from ptl_plugins.recipe_models import PhaseModel, SectionModel
from ptl_plugins.registry import Catalogue, Registry
from ptl_plugins.schedule import Phase, expand
from ptl_plugins.selectors import units
from ptl_plugins.text_data import SUFFIXES, read_texts
from ptl_plugins.types import (
    CalibrationSpec,
    Cut,
    DistillSpec,
    EvaluationSpec,
    EvaluationTask,
    LearningRateSchedule,
    ProtectSpec,
    Refit,
    RoundSpec,
    Tokens,
)

MOST_ROUNDS = 10_000
"""Of all phases together: a short file must not plan for gigabytes."""


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """A recipe file as it was read: keys parsed, nothing checked."""

    path: Path
    keys: Mapping[str, Any]
    text: str
    registry: Registry
    thorough: bool = True
    """Whether the training data that the file names has to be there (not needed for a plan)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """What both doors have in common, resolved."""

    rounds: tuple[RoundSpec, ...]
    family: str | None
    seed: int | None
    multiple_of: int
    refit: Refit
    protect: ProtectSpec | None
    calibration: CalibrationSpec
    evaluation: EvaluationSpec
    distill: DistillSpec | None
    tokens: Tokens
    learning_rate_schedule: LearningRateSchedule
    health: HealthSpec
    on_divergence: OnDivergence


def read_section(source: RecipeSource, keys: object, *, prefix: str) -> Section:
    """Check the shared keys of a recipe and return them resolved.

    Args:
        source: the file, for messages and names.
        keys: the mapping found under `prefix`.
        prefix: where in the file it stands, such as `ptl`.

    Raises:
        RecipeError: one line per problem: file, key, value, what is allowed.
    """
    if not isinstance(keys, Mapping):
        raise RecipeError(f"{source.path}: {prefix}: {keys!r} is not a mapping of keys")
    try:
        model = SectionModel.model_validate(dict(keys))
    except pydantic.ValidationError as error:
        lines = explain(error, SectionModel, prefix=prefix)
        raise RecipeError("\n".join(f"{source.path}: {line}" for line in lines)) from None
    problems = section_problems(model, source)
    if problems:
        raise RecipeError("\n".join(f"{source.path}: {prefix}.{line}" for line in problems))
    return resolve(model)


def section_problems(model: SectionModel, source: RecipeSource) -> list[str]:
    """Return one line, `key: what is wrong`, per name that nothing registered, and so on."""
    if too_many := _too_many_rounds(model):
        return too_many
    missing = _missing_data(model) if source.thorough else []
    unknown = _unknown_names(model, source.registry)
    needed = [] if unknown else _needed_protection(model, source.registry)
    return unknown + _idle_protection(model) + needed + _wrong_tops(model) + missing


def _too_many_rounds(model: SectionModel) -> list[str]:
    number = sum(phase.rounds for phase in model.schedule)
    if number <= MOST_ROUNDS:
        return []
    return [
        f"schedule: has {number} rounds; at most {MOST_ROUNDS} are allowed, each of which removes "
        "something or trains"
    ]


def resolve(model: SectionModel) -> Section:
    """Return the checked keys as the frozen values that travel on."""
    return Section(
        rounds=expand([_phase(phase) for phase in model.schedule], model.order),
        family=model.family,
        seed=model.seed,
        multiple_of=model.multiple_of,
        refit=model.refit,
        protect=ProtectSpec(**model.protect.model_dump()) if model.protect else None,
        calibration=CalibrationSpec(**model.calibration.model_dump()),
        evaluation=EvaluationSpec(
            tasks=tuple(
                EvaluationTask(evaluator=task.evaluator, settings=dict(task.model_extra or {}))
                for task in model.evaluate.tasks
            ),
            every=model.evaluate.every,
            original=model.evaluate.original,
            before_recovery=model.evaluate.before_recovery,
        ),
        distill=DistillSpec(**model.distill.model_dump()) if model.distill else None,
        tokens=model.tokens,
        learning_rate_schedule=model.learning_rate_schedule,
        health=HealthSpec(**model.health.model_dump()),
        on_divergence=model.on_divergence,
    )


def _phase(phase: PhaseModel) -> Phase:
    return Phase(cut=None if phase.unit == "none" else _cut(phase), rounds=phase.rounds)


def _cut(phase: PhaseModel) -> Cut:
    assert phase.unit != "none"
    return Cut(
        unit=phase.unit,
        criterion=phase.criterion or DEFAULT_CRITERION[phase.unit],
        selector=phase.selector,
        amount=phase.amount or 0.0,
    )


def _unknown_names(model: SectionModel, registry: Registry) -> list[str]:
    problems = _cut_twice(model)
    if model.family is not None:
        problems += _unknown("family", model.family, registry.families)
    for index, phase in enumerate(model.schedule):
        if phase.unit != "none":
            problems += _phase_problems(f"schedule.{index}", phase, registry)
    for index, task in enumerate(model.evaluate.tasks):
        key = f"evaluate.tasks.{index}"
        unknown = _unknown(f"{key}.evaluator", task.evaluator, registry.evaluators)
        wrong = not unknown and registry.evaluators.get(task.evaluator).check(
            task.model_extra or {}
        )
        problems += unknown or ([f"{key}: {wrong}"] if wrong else [])
    return problems


def _idle_protection(model: SectionModel) -> list[str]:
    """Return one line where neurons shall be protected that no phase cuts."""
    if model.protect is None or any(phase.unit == "neuron" for phase in model.schedule):
        return []
    return [
        "protect: keeps neurons from being cut, but no phase of the schedule cuts neurons; remove "
        "protect, or add a phase of unit 'neuron'"
    ]


def _wrong_tops(model: SectionModel) -> list[str]:
    """Return one line where a list of `protect.top` does not fit the rounds."""
    rounds = sum(phase.rounds for phase in model.schedule if phase.unit == "neuron")
    if model.protect is None or isinstance(model.protect.top, int) or not rounds:
        return []
    number = len(model.protect.top)
    if number == rounds:
        return []
    return [
        f"protect.top: has {number} numbers, and {rounds} rounds cut neurons; give one number for "
        "each of them, or one for all"
    ]


def _needed_protection(model: SectionModel, registry: Registry) -> list[str]:
    """Return a line per phase whose criterion takes candidates, which only a protect set tells."""
    if model.protect is not None:
        return []
    return [
        f"schedule.{index}.criterion: '{phase.criterion}' needs protect: its `top` tells who is a "
        "candidate"
        for index, phase in enumerate(model.schedule)
        if phase.criterion and candidates_rule(registry.criteria.get(phase.criterion))
    ]


def _missing_data(model: SectionModel) -> list[str]:
    """Return what is wrong with a second corpus on this machine; a hub's is not asked for."""
    protect = model.protect
    if protect is None:
        return []
    if not is_there(protect.data):
        is_file = protect.data.startswith((".", "/", "~")) or Path(protect.data).suffix in SUFFIXES
        return [f"protect.data: '{protect.data}': no such file"] if is_file else []
    try:
        read_texts(protect.data, column=protect.column, number=1)
    except PTLError as error:
        return [f"protect: {error}"]
    return []


def _cut_twice(model: SectionModel) -> list[str]:
    cut = [phase.unit for phase in model.schedule if phase.unit != "none"]
    if model.order != "together" or len(cut) == len(set(cut)):
        return []
    twice = next(unit for unit in cut if cut.count(unit) > 1)
    return [f"order: 'together' cuts once per unit and round, but two phases cut {units(twice)}"]


def _phase_problems(key: str, phase: PhaseModel, registry: Registry) -> list[str]:
    problems = _unknown(f"{key}.selector", phase.selector, registry.selectors)
    if not problems:
        wrong = registry.selectors.get(phase.selector).check(_cut(phase))
        problems += [f"{key}.amount: {wrong}"] if wrong else []
    name = phase.criterion
    if name is None or phase.unit == "none":
        return problems
    unknown = _unknown(f"{key}.criterion", name, registry.criteria)
    if not unknown and (unit := registry.criteria.get(name).unit) != phase.unit:
        fitting = [n for n, c in registry.criteria.items() if c.unit == phase.unit]
        unknown = [
            f"{key}.criterion: '{name}' scores {units(unit)}, but the phase cuts "
            f"{units(phase.unit)}; "
            f"allowed: {', '.join(fitting)}"
        ]
    return problems + unknown


def _unknown(key: str, name: str, catalogue: Catalogue[Any]) -> list[str]:
    from ptl_plugins.errors import UnknownNameError

    try:
        catalogue.get(name)
    except UnknownNameError as error:
        return [f"{key}: {error}"]
    return []
