"""Whether the disk has room for what a run is still to write."""

from __future__ import annotations

import shutil
from pathlib import Path

from ptl_plugins.disk_plan import plan_disk
from ptl_plugins.disk_sizes import show_bytes, size_of
from ptl_plugins.errors import RecipeError
from ptl_plugins.preflight import Plan
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.types import Recipe


def require_space(plan: Plan, run: RunFolder) -> None:
    """Check that the disk has room for the rounds that are not finished; write nothing.

    Raises:
        RecipeError: it has not; the line says how much is missing and what can be done.
    """
    disk, finished = plan_disk(plan), run.num_finished()
    if finished >= len(disk.rounds):
        return
    there = disk.rounds[finished - 1].after if finished else 0
    highest = max(disk.rounds[finished:], key=lambda each: each.peak)
    needed = highest.peak - there - _left_by_an_earlier_try(plan.recipe, run, finished + 1)
    free = shutil.disk_usage(_nearest_folder(run.path)).free
    if needed > free:
        key = "run_dir" if plan.recipe.data else "output_dir"
        raise RecipeError(
            f"{plan.recipe.source}: {key}: '{run.path}': the run needs up to {show_bytes(needed)} "
            f"more there (in round {highest.index}), {show_bytes(free)} are free; free some, "
            f"or give another {key}{_keep_less(plan.recipe)}"
        )


def _left_by_an_earlier_try(recipe: Recipe, run: RunFolder, index: int) -> int:
    """Return the bytes of an unfinished round that are used again, or go before it needs more."""
    folder = run.round_folder(index)
    return size_of(folder if recipe.data else folder / "second_moments")


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _keep_less(recipe: Recipe) -> str:
    """Return how `keep` saves room; a run that was begun may go on with another one."""
    if recipe.data is None:
        return ""
    keys = [
        *(["rounds: last"] if recipe.keep.rounds == "all" and len(recipe.rounds) > 2 else []),
        *(["intermediate: false"] if recipe.keep.intermediate else []),
    ]
    return f", or set keep: {{{', '.join(keys)}}}" if keys else ""
