"""`ptl run` without its command line: the loop over checkpoint folders."""

from __future__ import annotations

from pathlib import Path

from ptl_plugins.geometry import geometry
from ptl_plugins.kept_files import tidy_run
from ptl_plugins.loop import prune_tune_loop
from ptl_plugins.manager import PTLPluginManager
from ptl_plugins.manifest import build_manifest
from ptl_plugins.model_config import model_folder, read_config
from ptl_plugins.preflight import plan_run
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.registry import Registry
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.run_lock import require_unlocked
from ptl_plugins.text_corpus import read_corpus
from ptl_plugins.types import Recipe, RoundContext, RoundSpec, Subject


def run_recipe(recipe: Recipe, manager: PTLPluginManager, registry: Registry) -> Path:
    """Run every round that is not finished yet; return the folder of the last model.

    Raises:
        PTLError: the recipe, the model or the corpus cannot be used, a stage failed, or the run
            folder belongs to another run.
    """
    plan = plan_run(recipe, registry)
    run = RunFolder(recipe.run_folder, writes=True)
    run.check(recipe)
    require_unlocked(recipe.run_folder)
    original = model_folder(recipe.model)
    corpus = read_corpus(recipe, original)
    run.open(recipe, build_manifest(recipe, manager, num_ranks=1))
    run.require_corpus(corpus.digest())
    start = RoundContext(
        spec=RoundSpec(index=0, cuts=()),
        recipe=recipe,
        run=run,
        registry=registry,
        corpus=corpus,
        ranks=SingleProcess(),
        hooks=manager.hook,
        original=plan.original,
        log=RoundLog(run, 0),
    )
    subject = Subject(family=plan.family, path=run.last_model() or original)
    try:
        tidy_run(start)
        last = prune_tune_loop(start, subject, describe)
    finally:
        run.close()
    assert last.path is not None
    return last.path


def describe(subject: Subject) -> dict[str, int]:
    """Return layers, width and parameters of a checkpoint, from its config."""
    sizes = geometry(read_config(str(subject.path)), subject.family)
    return {
        "num_layers": sizes.num_layers,
        "width": sizes.width,
        "num_parameters": sizes.num_parameters,
    }
