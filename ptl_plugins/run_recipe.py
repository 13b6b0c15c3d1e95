"""The recipe of `ptl run`: the keys of a `ptl:` section, and model, data and recovery stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from ptl_plugins.distillation.teacher_check import taught_stage_problems, teacher_problems
from ptl_plugins.errors import RecipeError, UnknownNameError
from ptl_plugins.given_path import PathText, given_path
from ptl_plugins.markers import hookimpl
from ptl_plugins.number_check import number_problems
from ptl_plugins.recipe import RecipeSource, resolve, section_problems
from ptl_plugins.recipe_errors import explain
from ptl_plugins.recipe_models import STRICT, SectionModel
from ptl_plugins.registry import Catalogue, Registry
from ptl_plugins.secret_values import secret_problems
from ptl_plugins.stage_types import LaunchSpec, StageSpec
from ptl_plugins.types import DataSpec, KeepSpec, Recipe, RoundSpec

DEFAULT_SEED = 42
Round = Annotated[int, pydantic.Field(ge=1)]


class DataModel(pydantic.BaseModel):
    """`data`: the corpus, cut into one part per round."""

    model_config = STRICT

    path: PathText
    """A json, jsonl, parquet or txt file, a folder of them, or a hub data set."""
    column: str = "text"
    """The column that holds the text, where there is no template."""
    template: str | None = None
    """The text, with names of columns in braces: "Question: {question} Answer: {answer}"."""
    split: str = "train"
    """The split of a hub data set."""


class LaunchModel(pydantic.BaseModel):
    """`launch`: how a stage's program is started; `options` are the launcher's own keys."""

    model_config = STRICT

    launcher: str = "local"
    """How the program is started: a launcher that PTL or a plugin registers."""
    processes: Annotated[int, pydantic.Field(ge=1)] = 1
    """How many processes; more than one: torchrun."""
    timeout: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds after which the stage is stopped; unset, never."""
    options: Mapping[str, Any] = {}
    """The launcher's own keys."""


class StageModel(pydantic.BaseModel):
    """One entry of `recover`; `settings` are the framework's own keys, verbatim."""

    model_config = STRICT

    backend: str
    """What trains: a name of `ptl ls backends`."""
    python: PathText | None = None
    """The interpreter of the framework's environment; unset, it is PTL's own."""
    launch: LaunchModel = LaunchModel()
    """How the stage's program is started."""
    rounds: Annotated[list[Round], pydantic.Field(min_length=2, max_length=2)] | None = None
    """The first and the last round that have the stage, such as [1, 5]; unset, all have it."""
    settings: Mapping[str, Any] = {}
    """The framework's own keys, verbatim; those that PTL sets for each round are refused."""


class KeepModel(pydantic.BaseModel):
    """`keep`: which checkpoints stay on the disk."""

    model_config = STRICT

    rounds: Literal["all", "last"] = "all"
    """Whose recovered model stays: every round's, or the last one's alone."""
    intermediate: bool = False
    """Whether the pruned model and those between two stages stay as well."""


class RunModel(SectionModel):
    """A recipe of `ptl run`."""

    model: PathText
    """The model to prune: a checkpoint folder or a name of the hub."""
    data: DataModel
    """The corpus, cut into one part per round."""
    run_dir: PathText | None = None
    """The run folder; unset, it is runs/ and the recipe's name."""
    recover: tuple[StageModel, ...] = ()
    """The stages of a round, in order; without one the pruned model is the round's."""
    keep: KeepModel = KeepModel()
    """Which checkpoints stay on the disk."""


@hookimpl(trylast=True)
def ptl_read_recipe(source: RecipeSource) -> Recipe | None:
    """Read a file that has `recover` or `model` and no section of a framework."""
    if "ptl" in source.keys or not {"recover", "model", "run_dir"} & source.keys.keys():
        return None
    return read_run_recipe(source)


def read_run_recipe(source: RecipeSource) -> Recipe:
    """Check the file's keys and return the recipe.

    Raises:
        RecipeError: one line per problem.
    """
    if wrong := secret_problems(source.keys) or number_problems(source.keys):
        raise _refused(source, wrong)
    try:
        model = RunModel.model_validate(dict(source.keys))
    except pydantic.ValidationError as error:
        raise _refused(source, explain(error, RunModel, prefix="")) from None
    problems = section_problems(model, source) + _schedule_over_processes(model)
    problems += _idle_phases(model)
    for index, stage in enumerate(model.recover):
        problems += _stage_problems(f"recover.{index}", _stage(stage), source.registry)
    if problems:
        raise _refused(source, problems)
    section = resolve(model)
    stages = tuple(_stage(stage) for stage in model.recover)
    problems = _round_problems(model, section.rounds)
    problems += taught_stage_problems(section.distill, stages, source.registry)
    if not problems and source.thorough:
        problems = teacher_problems(section.distill, model.model, source.registry)
    if problems:
        raise _refused(source, problems)
    return Recipe(
        source=source.path,
        model=model.model,
        family=section.family,
        seed=DEFAULT_SEED if section.seed is None else section.seed,
        run_folder=given_path(model.run_dir or f"runs/{source.path.stem}"),
        rounds=section.rounds,
        multiple_of=section.multiple_of,
        refit=section.refit,
        protect=section.protect,
        calibration=section.calibration,
        stages=stages,
        evaluation=section.evaluation,
        text=source.text,
        data=DataSpec(**model.data.model_dump()),
        keep=KeepSpec(**model.keep.model_dump()),
        distill=section.distill,
        tokens=section.tokens,
        health=section.health,
        on_divergence=section.on_divergence,
    )


def _schedule_over_processes(model: RunModel) -> list[str]:
    """Return one line where a learning rate's schedule shall span what no one process trains."""
    if model.learning_rate_schedule == "round":
        return []
    return [
        f"learning_rate_schedule: '{model.learning_rate_schedule}': each stage of ptl run is a "
        "process of its own, which knows its own steps alone; use round, or llamafactory-cli "
        "train with a ptl: section"
    ]


def _idle_phases(model: RunModel) -> list[str]:
    """Return the phases that neither prune nor train, and would make no model."""
    if model.recover:
        return []
    remedy = "unit 'none' does nothing without a stage in 'recover'; add one or remove the phase"
    phases = enumerate(model.schedule)
    return [f"schedule.{index}: {remedy}" for index, phase in phases if phase.unit == "none"]


def _round_problems(model: RunModel, rounds: Sequence[RoundSpec]) -> list[str]:
    """Return stages of rounds that there are not, and rounds that nothing is done in."""
    problems = []
    for index, stage in enumerate(model.recover):
        first, last = stage.rounds or (1, len(rounds))
        if not first <= last <= len(rounds):
            problems.append(
                f"recover.{index}.rounds: [{first}, {last}] is no first and last of the schedule's "
                f"{len(rounds)} rounds"
            )
    stages = [_stage(stage) for stage in model.recover]
    idle = (
        f"schedule: round {spec.index} cuts nothing and has no stage in 'recover'; give one its "
        "round, or remove the round"
        for spec in rounds
        if not spec.cuts and not any(stage.is_in(spec.index) for stage in stages)
    )
    return problems or list(idle)


def _refused(source: RecipeSource, lines: list[str]) -> RecipeError:
    return RecipeError("\n".join(f"{source.path}: {line.lstrip('.')}" for line in lines))


def _stage(stage: StageModel) -> StageSpec:
    return StageSpec(
        backend=stage.backend,
        settings=dict(stage.settings),
        python=stage.python,
        launch=LaunchSpec(**stage.launch.model_dump()),
        rounds=(stage.rounds[0], stage.rounds[1]) if stage.rounds else None,
    )


def _stage_problems(key: str, stage: StageSpec, registry: Registry) -> list[str]:
    problems = [
        *_checked(key, "backend", stage.backend, registry.backends, stage),
        *_checked(f"{key}.launch", "launcher", stage.launch.launcher, registry.launchers,
                  stage.launch),
    ]  # fmt: skip
    if stage.python is not None and not Path(stage.python).is_file():
        problems.append(
            f"{key}.python: '{stage.python}' is no file; give the framework's interpreter"
        )
    return problems


def _checked(key: str, kind: str, name: str, catalogue: Catalogue[Any], value: object) -> list[str]:
    """Return what is wrong with a name, or what the component of that name finds wrong."""
    try:
        wrong = catalogue.get(name).check(value)
    except UnknownNameError as error:
        return [f"{key}.{kind}: {error}"]
    return [f"{key}.{line}" for line in wrong.split("\n")] if wrong else []
