"""What of a finished run stays on the disk, as the recipe's `keep` says."""

from __future__ import annotations

import shutil

from ptl_plugins.kept_results import forget_results
from ptl_plugins.run_folder import MODEL
from ptl_plugins.types import RoundContext

PRUNED = "pruned"
TRAINED = "trained"
"""Folder of a stage that a backend's program saves to."""


def tidy_round(ctx: RoundContext) -> None:
    """Delete what a recorded round does not keep; the original is never touched."""
    forget_results(ctx)
    keep = ctx.recipe.keep
    if not keep.intermediate:
        shutil.rmtree(ctx.folder / PRUNED, ignore_errors=True)
        for name in (MODEL, TRAINED):
            for folder in ctx.folder.glob(f"stage_*/{name}"):
                shutil.rmtree(folder)
    if keep.rounds == "last" and (ctx.folder / MODEL).is_dir():  # else its model is an earlier one
        for index in range(1, ctx.spec.index):
            shutil.rmtree(ctx.run.round_folder(index) / MODEL, ignore_errors=True)


def tidy_run(start: RoundContext) -> None:
    """Do for every recorded round what a killed run may have left undone."""
    if start.run.records():
        forget_results(start)  # round 0's
    for spec in start.recipe.rounds[: start.run.num_finished()]:
        tidy_round(start.for_round(spec))
