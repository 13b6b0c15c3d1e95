"""`ptl run` without its command line: the loop over checkpoint folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ptl_plugins.disk_check import require_space
from ptl_plugins.errors import PTLError, RecipeError, RunFolderError
from ptl_plugins.geometry import geometry
from ptl_plugins.given_path import given_path
from ptl_plugins.half_steps import with_half_steps
from ptl_plugins.kept_files import tidy_run
from ptl_plugins.manager import PTLPluginManager
from ptl_plugins.manifest import build_manifest
from ptl_plugins.model_config import model_folder, read_config
from ptl_plugins.preflight import Plan, plan_run
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.registry import Registry
from ptl_plugins.remote_code import remote_code_notes
from ptl_plugins.retry import run_rounds
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.run_lock import require_unlocked
from ptl_plugins.sound_weights import require_sound
from ptl_plugins.stage_check import check_jobs, check_unfinished
from ptl_plugins.stopping import noting_stop
from ptl_plugins.text_corpus import TextCorpus, read_corpus
from ptl_plugins.types import Recipe, RoundContext, RoundSpec, Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run of which everything was checked, and nothing is written or loaded yet."""

    plan: Plan
    original: Path
    """The checkpoint of round 0."""
    corpus: TextCorpus
    start: RoundContext
    """The context of round 0."""


def run_recipe(recipe: Recipe, manager: PTLPluginManager, registry: Registry) -> Path:
    """Run every round that is not finished yet; return the folder of the last model.

    Raises:
        PTLError: the recipe, the model or the corpus cannot be used, a stage failed, or the run
            folder belongs to another run.
    """
    ready = prepare_run(recipe, manager, registry, writes=True)
    run = ready.start.run
    run.open(recipe, build_manifest(recipe, manager, num_ranks=1))
    run.require_corpus(ready.corpus.digest())
    for note in remote_code_notes(recipe):
        ready.start.log.say(note)

    def last_good() -> Subject:
        return Subject(family=ready.plan.family, path=run.last_model() or ready.original)

    try:
        with noting_stop(run, manager):
            tidy_run(ready.start)
            last = run_rounds(ready.start, last_good(), describe, last_good)
    finally:
        run.close()
    assert last.path is not None
    return last.path


def prepare_run(
    recipe: Recipe, manager: PTLPluginManager, registry: Registry, *, writes: bool
) -> PreparedRun:
    """Check everything that a run needs, and read its corpus; write nothing.

    Args:
        recipe: the run.
        manager: the steps.
        registry: the names.
        writes: whether the run that is prepared may write; a dry run may not.

    Raises:
        PTLError: as `run_recipe`, but for the stages' own failures.
    """
    run = RunFolder(recipe.run_folder, writes=writes)
    run.check(recipe)
    recipe = with_half_steps(recipe, run)
    plan = plan_run(recipe, registry)
    _require_place(recipe)
    require_unlocked(recipe.run_folder)
    require_space(plan, run)
    check_unfinished(recipe, registry, run)
    original = model_folder(recipe.model)
    _require_sound(recipe, original, run)
    corpus = read_corpus(recipe, original, plan.weights)
    RunFolder(recipe.run_folder, writes=False).require_corpus(corpus.digest())
    start = RoundContext(
        spec=RoundSpec(index=0, cuts=()),
        recipe=recipe,
        run=run,
        registry=registry,
        corpus=corpus.for_rounds(recipe.rounds),
        ranks=SingleProcess(),
        hooks=manager.hook,
        original=plan.original,
        log=RoundLog(run, 0),
    )
    check_jobs(start, original)
    return PreparedRun(plan=plan, original=original, corpus=corpus, start=start)


def _require_sound(recipe: Recipe, original: Path, run: RunFolder) -> None:
    """Look at every weight of the original, unless a finished round shows that it was sound.

    A dry run reads no weights.
    """
    if run.num_finished() or not run.writes:
        return
    try:
        require_sound(original)
    except PTLError as error:
        raise RecipeError(f"{recipe.source}: model: {error}") from error


def _require_place(recipe: Recipe) -> None:
    """Refuse a run folder that cannot be made or written to, or that PTL must not delete from.

    That is one whose round folders hold the original.
    """
    folder = recipe.run_folder
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not place.is_dir():
        raise RunFolderError(f"{folder}: '{place}' is a file; choose another run folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunFolderError(f"{folder}: '{place}' cannot be written to; choose another run folder")
    model, rounds = given_path(recipe.model).resolve(), folder.resolve()
    if model.is_dir() and any(model.is_relative_to(path) for path in rounds.glob("round_*")):
        raise RunFolderError(
            f"{folder}: its round folders hold the recipe's model, '{recipe.model}'; choose "
            "another run folder"
        )


def describe(subject: Subject) -> dict[str, int]:
    """Return layers, width, hidden size and parameters of a checkpoint, from its config."""
    sizes = geometry(read_config(str(subject.path)), subject.family)
    return {
        "num_layers": sizes.num_layers,
        "width": sizes.width,
        "hidden": sizes.hidden,
        "num_parameters": sizes.num_parameters,
    }
