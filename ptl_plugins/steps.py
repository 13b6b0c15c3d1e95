"""PTL's own implementations of the steps, for live models. Each answers last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.markers import hookimpl
from ptl_plugins.run_folder import SCORES
from ptl_plugins.types import EvalResult, PrunePlan, RoundContext, Scores, Subject

if TYPE_CHECKING:
    from ptl_plugins.calibration import Batch
    from ptl_plugins.criteria import Statistic


@hookimpl(trylast=True)
def ptl_profile(ctx: RoundContext, subject: Subject) -> Scores | None:
    """Run the round's calibration sequences, each rank its share, through the live model."""
    if subject.model is None:
        return None
    from ptl_plugins.live import stored_weights
    from ptl_plugins.profiling import profile
    from ptl_plugins.scores_file import write_scores

    with stored_weights(subject.model, subject.stored_dtype):
        scores = profile(
            subject.model, subject.family, _batches(ctx, subject), _statistics(ctx), ctx.ranks
        )
    if ctx.run.writes:
        ctx.folder.mkdir(parents=True, exist_ok=True)
        write_scores(ctx.folder / SCORES, scores)
    return scores


@hookimpl(trylast=True)
def ptl_select(ctx: RoundContext, scores: Scores) -> PrunePlan | None:
    """Choose the least important; all ranks must choose the same."""
    from ptl_plugins.ranks import require_equal
    from ptl_plugins.scores_file import digest
    from ptl_plugins.selection import Original, choose

    original = Original(width=ctx.original_width, num_layers=ctx.original_num_layers)
    plan = choose(
        ctx.spec.cuts,
        scores,
        ctx.registry,
        original=original,
        multiple_of=ctx.recipe.multiple_of,
        digest=digest(scores),
    )
    require_equal(ctx.ranks, plan.digest(), f"what round {ctx.spec.index} removes")
    return plan


@hookimpl(trylast=True)
def ptl_prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject | None:
    """Cut the live model in place and note where what is left came from."""
    if subject.model is None:
        return None
    from ptl_plugins.surgery import prune_live

    prune_live(subject.model, subject.family, plan)
    _note_provenance(ctx, plan)
    return subject


@hookimpl(trylast=True)
def ptl_evaluate(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Run the evaluators that the recipe names; metrics of two tasks must not share a name."""
    start = time.perf_counter()
    metrics: dict[str, float] = {}
    for task in ctx.recipe.evaluation.tasks:
        evaluator = ctx.registry.evaluators.get(task.evaluator)
        measured = evaluator.evaluate(ctx, subject, task.settings)
        if both := sorted(metrics.keys() & measured.keys()):
            raise PTLError(
                f"evaluator '{task.evaluator}': a task before it measured '{both[0]}' too"
            )
        metrics |= measured
    return EvalResult(metrics=metrics, seconds=round(time.perf_counter() - start, 3))


def _batches(ctx: RoundContext, subject: Subject) -> Iterator[Batch]:
    from ptl_plugins.calibration import batches

    assert subject.model is not None
    sequences = sorted(ctx.corpus.calibration(ctx.spec.index), key=len, reverse=True)
    if not any(len(sequence) for sequence in sequences):
        raise PruneError(f"round {ctx.spec.index}: no calibration sequence holds a token")
    share = sequences[ctx.ranks.rank :: ctx.ranks.size]
    device = next(subject.model.parameters()).device
    return batches(share, batch_tokens=ctx.recipe.calibration.batch_tokens, device=device)


def _statistics(ctx: RoundContext) -> tuple[Statistic, ...]:
    from ptl_plugins.criteria import needed_statistics

    criteria = [ctx.registry.criteria.get(cut.criterion) for cut in ctx.spec.cuts]
    return needed_statistics(criteria)


def _note_provenance(ctx: RoundContext, plan: PrunePlan) -> None:
    from ptl_plugins.provenance import FILE, read_latest

    shape = {"num_layers": plan.num_layers, "width": plan.width}
    before = read_latest(ctx.run, ctx.spec.index - 1, shape)
    ctx.run.write(ctx.folder / FILE, before.after(plan).to_json())
