"""PTL's own implementations of the steps for checkpoint folders, as `ptl run` takes them.

Each step reads a folder and writes one, whole or not at all; what is there already was made by
an earlier try from the same inputs, and is taken as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PruneError
from ptl_plugins.kept_files import PRUNED, tidy_round
from ptl_plugins.kept_results import keep_result, kept_result
from ptl_plugins.markers import hookimpl
from ptl_plugins.provenance import FILE
from ptl_plugins.run_folder import MODEL, SCORES
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import (
    EvalResult,
    PrunePlan,
    RoundContext,
    RoundRecord,
    Scores,
    Subject,
)

if TYPE_CHECKING:
    from pathlib import Path


@hookimpl(trylast=True)
def ptl_profile(ctx: RoundContext, subject: Subject) -> Scores | None:
    """Load the checkpoint and profile it as a live model; nothing of it stays in memory."""
    if subject.path is None:
        return None
    from ptl_plugins import steps
    from ptl_plugins.live import loaded
    from ptl_plugins.scores_file import read_scores

    with contextlib.suppress(PruneError):  # not there, or damaged
        return read_scores(ctx.folder / SCORES)[0]
    with loaded(subject) as live:
        return steps.ptl_profile(ctx, live)


@hookimpl(trylast=True)
def ptl_prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject | None:
    """Write the pruned checkpoint, refitted where the recipe says so."""
    if subject.path is None:
        return None
    from ptl_plugins.checkpoint_surgery import prune_checkpoint
    from ptl_plugins.side_files import side_files

    out = ctx.folder / (PRUNED if ctx.stages else MODEL)
    if not _is_there(out):
        refit = plan.removed_neurons and ctx.recipe.refit == "ridge"
        prune_checkpoint(
            subject.path,
            out,
            subject.family,
            plan,
            side_files=side_files(str(subject.path)),
            extra={FILE: _provenance(ctx, subject.path, plan)},
            new_outputs=_refitted(ctx, subject, plan) if refit else None,
        )
    shutil.rmtree(ctx.folder / "second_moments", ignore_errors=True)
    return dataclasses.replace(subject, path=out)


@hookimpl(trylast=True)
def ptl_recover(ctx: RoundContext, stage: StageSpec, subject: Subject) -> Subject | None:
    """Let the stage's backend train the checkpoint, and take its result if it can be used."""
    if subject.path is None:
        return None
    from ptl_plugins.stage_run import run_stage

    index = next(i for i, other in enumerate(ctx.stages) if other is stage)
    return dataclasses.replace(subject, path=run_stage(ctx, index, subject.path))


@hookimpl(trylast=True)
def ptl_evaluate(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Load the checkpoint and evaluate it as a live model."""
    if subject.path is None:
        return None
    from ptl_plugins import steps
    from ptl_plugins.live import loaded

    if (measured := kept_result(ctx, subject.path)) is not None:
        return measured
    with loaded(subject) as live:
        result = steps.ptl_evaluate(ctx, live)
    if result is not None:
        keep_result(ctx, subject.path, result)
    return result


@hookimpl(trylast=True)
def ptl_round_finished(ctx: RoundContext, record: RoundRecord) -> None:
    """Delete what lay between the round's model and the one before, now that it is recorded."""
    if ctx.recipe.data is not None:  # not in a training framework's own door
        tidy_round(ctx)


def _is_there(out: Path) -> bool:
    """Whether the pruned model is in place; a kill may have left its name, claimed but empty."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    return out.exists()


def _refitted(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Any:
    """Return what refits, from the round's second moments; they may have to be gathered anew."""
    from ptl_plugins import steps
    from ptl_plugins.checkpoint_refit import refitted_outputs
    from ptl_plugins.live import loaded
    from ptl_plugins.shards import open_checkpoint

    assert subject.path is not None
    if not all(steps.moments(ctx).file(layer).exists() for layer in plan.kept_layers()):
        with loaded(subject) as live:
            steps.gather_moments(ctx, live)
    return refitted_outputs(open_checkpoint(subject.path), subject.family, plan, steps.moments(ctx))


def _provenance(ctx: RoundContext, model: Path, plan: PrunePlan) -> dict[str, Any]:
    from ptl_plugins.provenance import Provenance, untouched

    before = untouched(num_layers=plan.num_layers, width=plan.width)
    if (model / FILE).is_file():
        before = Provenance.from_json(json.loads((model / FILE).read_text(encoding="utf-8")))
    return before.after(plan, {"model": str(model)}).to_json()
