"""Algorithm 1: extract what is redundant, remove it, recover, until the last round."""

from __future__ import annotations

from collections.abc import Callable

from ptl_plugins.amounts import show_amount
from ptl_plugins.announcing import announce, finish
from ptl_plugins.divergence import noting_divergence
from ptl_plugins.measuring import measure_pruned, measure_recovered
from ptl_plugins.run_folder import read_plan, write_plan
from ptl_plugins.selectors import units
from ptl_plugins.step_answer import answer
from ptl_plugins.types import PrunePlan, RoundContext, RoundSpec, Subject


def prune_tune_loop(
    start: RoundContext, subject: Subject, describe: Callable[[Subject], dict[str, int]]
) -> Subject:
    """Run the rounds that are not finished and return the last model.

    Args:
        start: the context of round 0, the original.
        subject: the model of the last finished round, or the original.
        describe: gives `num_layers`, `width` and `num_parameters` of a subject.
    """
    measured_original, finished = _where_it_stands(start)
    if not measured_original:
        measured = measure_recovered(start, subject)
        announce(start, start.log.record(describe(subject), recovered=measured))
    for spec in start.recipe.rounds[finished:]:  # line 2: while t < T
        ctx = start.for_round(spec)
        ctx.log.say(f"round {spec.index} of {len(ctx.recipe.rounds)}: {_describe(spec)}")
        pruned = None
        plan = extract(ctx, subject)  # lines 4, 5
        if plan is not None:
            subject = prune(ctx, subject, plan)  # line 7
            pruned = measure_pruned(ctx, subject)
        with noting_divergence(ctx):
            subject = recover(ctx, subject)  # lines 9, 10
        measured = measure_recovered(ctx, subject)
        announce(ctx, ctx.log.record(describe(subject), spec.cuts, plan, pruned, measured))
    finish(start)
    return subject


def extract(ctx: RoundContext, subject: Subject) -> PrunePlan | None:
    """Profile and select; a plan that an earlier try left on disk is taken as it is."""
    if not ctx.spec.cuts:
        return None
    if (plan := read_plan(ctx.folder)) is not None:
        return plan
    with ctx.log.timed("profile"):
        scores = answer(ctx.hooks.ptl_profile(ctx=ctx, subject=subject), "ptl_profile")
    with ctx.log.timed("select"):
        chosen: PrunePlan = answer(ctx.hooks.ptl_select(ctx=ctx, scores=scores), "ptl_select")
        write_plan(ctx.run, ctx.folder, chosen)
    ctx.ranks.barrier()
    return chosen


def prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject:
    """Carry out the plan."""
    with ctx.log.timed("prune"):
        pruned: Subject = answer(
            ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan), "ptl_prune"
        )
    nothing = ", nothing goes" if plan.is_empty else ""
    ctx.log.say(f"round {ctx.spec.index}: {plan!r}{nothing}")
    return pruned


def recover(ctx: RoundContext, subject: Subject) -> Subject:
    """Run the recovery stages one after the other."""
    for stage in ctx.stages:
        devices = ctx.ranks.size if subject.model is not None else None
        with ctx.log.timed_stage(stage.backend, devices):
            recovered = ctx.hooks.ptl_recover(ctx=ctx, stage=stage, subject=subject)
        subject = answer(recovered, "ptl_recover")
    return subject


def _where_it_stands(ctx: RoundContext) -> tuple[bool, int]:
    """Return whether round 0 is recorded, and how many rounds are finished.

    The main rank's view counts: another rank may look after the main rank has gone on.
    """
    view: tuple[bool, int] = ctx.ranks.gather((bool(ctx.run.records()), ctx.run.num_finished()))[0]
    return view


def _describe(spec: RoundSpec) -> str:
    cuts = (
        f"{units(c.unit)} by {c.criterion}, {c.selector} {show_amount(c.amount)}" for c in spec.cuts
    )
    return "; ".join(cuts) or "recovery only"
