"""PTL's own implementations of the steps, for live models. Each answers last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.markers import hookimpl
from ptl_plugins.run_folder import MODEL, SCORES
from ptl_plugins.types import (
    EvalResult,
    ProtectSpec,
    PrunePlan,
    RoundContext,
    Scores,
    Subject,
)

PROTECT_MAX_LENGTH = 512
"""Tokens of a protected text where the recipe gives no `calibration.max_length`."""

if TYPE_CHECKING:
    from ptl_plugins.calibration import Batches
    from ptl_plugins.criteria import Statistic
    from ptl_plugins.second_moments import MomentFolder


@hookimpl(trylast=True)
def ptl_profile(ctx: RoundContext, subject: Subject) -> Scores | None:
    """Run the round's calibration sequences, each rank its share, through the live model."""
    if subject.model is None:
        return None
    from ptl_plugins.live import stored_weights
    from ptl_plugins.profiling import profile
    from ptl_plugins.scores_file import write_scores

    neurons_go = any(cut.unit == "neuron" for cut in ctx.spec.cuts)
    with stored_weights(subject.model, subject.stored_dtype):
        scores = profile(
            subject.model,
            subject.family,
            _batches(ctx, subject),
            _statistics(ctx),
            ctx.ranks,
            moments=moments(ctx) if neurons_go and ctx.recipe.refit == "ridge" else None,
        )
        if neurons_go and ctx.recipe.protect:
            scores = replace(scores, protect=_protect_scores(ctx, subject, ctx.recipe.protect))
    if ctx.run.writes:
        ctx.folder.mkdir(parents=True, exist_ok=True)
        write_scores(ctx.folder / SCORES, scores)
    return scores


@hookimpl(trylast=True)
def ptl_select(ctx: RoundContext, scores: Scores) -> PrunePlan | None:
    """Choose the least important; all ranks must choose the same."""
    from ptl_plugins.ranks import require_equal
    from ptl_plugins.scores_file import digest
    from ptl_plugins.selection import choose

    plan = choose(
        ctx.spec.cuts,
        scores,
        ctx.registry,
        original=ctx.original,
        multiple_of=ctx.recipe.multiple_of,
        protect_top=ctx.recipe.protect_top(ctx.spec.index),
        digest=digest(scores),
    )
    require_equal(ctx.ranks, plan.digest(), f"what round {ctx.spec.index} removes")
    return plan


@hookimpl(trylast=True)
def ptl_prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject | None:
    """Refit and cut the live model in place, and note where what is left came from."""
    if subject.model is None:
        return None
    from ptl_plugins.ranks import main_first
    from ptl_plugins.surgery import prune_live

    if plan.removed_neurons and ctx.recipe.refit == "ridge":
        _refit(ctx, subject, plan)
    prune_live(subject.model, subject.family, plan)
    _note_provenance(ctx, plan)
    with main_first(ctx.ranks) as main:
        if main:  # gigabytes that have done their work
            shutil.rmtree(moments(ctx).path, ignore_errors=True)
    return subject


@hookimpl(trylast=True)
def ptl_evaluate(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Run the evaluators that the recipe names; metrics of two tasks must not share a name."""
    if subject.model is None and subject.path is not None:
        return None
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


def _protect_scores(ctx: RoundContext, subject: Subject, protect: ProtectSpec) -> Scores:
    """Profile the second corpus for the statistics of the neuron criteria."""
    from ptl_plugins.profiling import profile
    from ptl_plugins.text_data import encode_texts, read_texts

    assert subject.model is not None
    assert subject.tokenizer is not None
    texts = read_texts(
        protect.data, column=protect.column, number=protect.num_sequences, seed=ctx.recipe.seed
    )
    max_length = ctx.recipe.calibration.max_length or PROTECT_MAX_LENGTH
    sequences = encode_texts(texts, subject.tokenizer, max_length=max_length)
    statistics = [s for s in _statistics(ctx) if s.site != "layer"]
    batches = _share(ctx, subject, sequences)
    return profile(subject.model, subject.family, batches, statistics, ctx.ranks)


def _refit(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> None:
    """Refit from the round's second moments; a resumed round may have to gather them again."""
    from ptl_plugins.live import stored_weights
    from ptl_plugins.refit import refit_live

    assert subject.model is not None
    with stored_weights(subject.model, subject.stored_dtype):
        gather_moments(ctx, subject)
        refit_live(subject.model, subject.family, plan, moments(ctx), ctx.ranks)


def gather_moments(ctx: RoundContext, subject: Subject) -> None:
    """Gather the second moments of the round that are not there yet, from a live model."""
    from ptl_plugins.profiling import profile

    assert subject.model is not None
    batches = _batches(ctx, subject)
    profile(subject.model, subject.family, batches, (), ctx.ranks, moments=moments(ctx))


def moments(ctx: RoundContext) -> MomentFolder:
    """Return where the round's second moments are, between its profile and its cut."""
    from ptl_plugins.second_moments import MomentFolder

    return MomentFolder(path=ctx.folder / "second_moments")


def _batches(ctx: RoundContext, subject: Subject) -> Batches:
    sequences = ctx.corpus.calibration(ctx.spec.index)
    if not any(len(sequence) for sequence in sequences):
        raise PruneError(f"round {ctx.spec.index}: no calibration sequence holds a token")
    return _share(ctx, subject, sequences)


def _share(ctx: RoundContext, subject: Subject, sequences: Sequence[Sequence[int]]) -> Batches:
    """Return this rank's batches of `sequences`."""
    from ptl_plugins.calibration import rank_batches

    assert subject.model is not None
    budget = ctx.recipe.calibration.batch_tokens
    device = next(subject.model.parameters()).device
    return rank_batches(sequences, ctx.ranks, batch_tokens=budget, device=device)


def _statistics(ctx: RoundContext) -> tuple[Statistic, ...]:
    from ptl_plugins.criteria import needed_statistics

    criteria = [ctx.registry.criteria.get(cut.criterion) for cut in ctx.spec.cuts]
    return needed_statistics(criteria)


def _note_provenance(ctx: RoundContext, plan: PrunePlan) -> None:
    from ptl_plugins.provenance import FILE, how_it_was_cut, read_latest

    how = how_it_was_cut(
        ctx.spec.cuts,
        refit=bool(plan.removed_neurons) and ctx.recipe.refit == "ridge",
        protected=ctx.recipe.protect_top(ctx.spec.index),
    )
    shape = {"num_layers": plan.num_layers, "width": plan.width}
    before = read_latest(ctx.run, ctx.spec.index - 1, shape)
    ctx.run.write(ctx.folder / FILE, before.after(plan, _parent(ctx), how).to_json())


def _parent(ctx: RoundContext) -> dict[str, str]:
    """Name the checkpoint that the round started from."""
    if ctx.spec.index == 1:
        return {"model": ctx.recipe.model}
    return {"model": f"{ctx.run.round_folder(ctx.spec.index - 1).name}/{MODEL}"}
