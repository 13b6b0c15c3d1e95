"""What of a finished run stays on the disk, as the recipe's `keep` says."""

from __future__ import annotations

import shutil

from ptl_plugins.run_folder import MODEL
from ptl_plugins.types import RoundContext

PRUNED = "pruned"
TRAINED = "trained"
"""Folder of a stage that a backend's program saves to."""


def tidy_round(ctx: RoundContext) -> None:
    """Delete what a recorded round does not keep; the original is never touched."""
    keep = ctx.recipe.keep
    if not keep.intermediate:
        shutil.rmtree(ctx.folder / PRUNED, ignore_errors=True)
        for name in (MODEL, TRAINED):
            for folder in ctx.folder.glob(f"stage_*/{name}"):
                shutil.rmtree(folder)
    if keep.rounds == "last" and ctx.spec.index > 1:
        shutil.rmtree(ctx.run.round_folder(ctx.spec.index - 1) / MODEL, ignore_errors=True)


def tidy_run(start: RoundContext) -> None:
    """Do for every recorded round what a killed run may have left undone."""
    for spec in start.recipe.rounds[: start.run.num_finished()]:
        tidy_round(start.for_round(spec))
