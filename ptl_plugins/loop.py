"""Algorithm 1: extract what is redundant, remove it, recover, until the last round."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

import pluggy

from ptl_plugins.amounts import show_amount
from ptl_plugins.errors import PluginError
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import read_plan, write_plan
from ptl_plugins.types import (
    EvalResult,
    PrunePlan,
    RoundContext,
    RoundRecord,
    RoundSpec,
    RunRecord,
    Subject,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)


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
        log = RoundLog(start.run, 0)
        measured = evaluate(start, subject, log)
        announce(start, log.record(describe(subject), recovered=measured))
    for spec in start.recipe.rounds[finished:]:  # line 2: while t < T
        ctx = dataclasses.replace(start, spec=spec)
        log = RoundLog(ctx.run, spec.index)
        log.say(f"round {spec.index} of {len(ctx.recipe.rounds)}: {_describe(spec)}")
        pruned = None
        plan = extract(ctx, subject, log)  # lines 4, 5
        if plan is not None:
            with log.timed("prune"):  # line 7
                subject = answer(
                    ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan), "ptl_prune"
                )
            log.say(f"round {spec.index}: {plan!r}" + (", nothing goes" if plan.is_empty else ""))
            if ctx.recipe.evaluation.before_recovery:
                pruned = evaluate(ctx, subject, log, name="evaluate_pruned")
        for stage in ctx.recipe.stages:  # lines 9, 10
            with log.timed("recover"):
                recovered = ctx.hooks.ptl_recover(ctx=ctx, stage=stage, subject=subject)
            subject = answer(recovered, "ptl_recover")
        measured = evaluate(ctx, subject, log) if is_measured(ctx) else None
        announce(ctx, log.record(describe(subject), spec.cuts, plan, pruned, measured))
    finish(start)
    return subject


def _where_it_stands(ctx: RoundContext) -> tuple[bool, int]:
    """Return whether round 0 is recorded, and how many rounds are finished.

    The main rank's view counts: another rank may look after the main rank has gone on.
    """
    view: tuple[bool, int] = ctx.ranks.gather((bool(ctx.run.records()), ctx.run.num_finished()))[0]
    return view


def extract(ctx: RoundContext, subject: Subject, log: RoundLog) -> PrunePlan | None:
    """Profile and select; a plan that an earlier try left on disk is taken as it is."""
    if not ctx.spec.cuts:
        return None
    if (plan := read_plan(ctx.folder)) is not None:
        return plan
    with log.timed("profile"):
        scores = answer(ctx.hooks.ptl_profile(ctx=ctx, subject=subject), "ptl_profile")
    with log.timed("select"):
        chosen: PrunePlan = answer(ctx.hooks.ptl_select(ctx=ctx, scores=scores), "ptl_select")
    write_plan(ctx.run, ctx.folder, chosen)
    ctx.ranks.barrier()
    return chosen


def evaluate(
    ctx: RoundContext, subject: Subject, log: RoundLog, name: str = "evaluate"
) -> EvalResult | None:
    """Measure `subject` where the recipe names something to measure."""
    if not ctx.recipe.evaluation.tasks:
        return None
    with log.timed(name):
        result: EvalResult = answer(
            ctx.hooks.ptl_evaluate(ctx=ctx, subject=subject), "ptl_evaluate"
        )
    log.say(f"round {ctx.spec.index}: {name}: {_metrics(result)}")
    return result


def is_measured(ctx: RoundContext) -> bool:
    """Whether the recipe measures this round: every n-th, and the last."""
    last = ctx.spec.index == len(ctx.recipe.rounds)
    return last or ctx.spec.index % ctx.recipe.evaluation.every == 0


def announce(ctx: RoundContext, record: RoundRecord) -> None:
    """Put the record on disk, then tell the plugins; their failures lose nothing."""
    ctx.run.finish_round(record)
    ctx.ranks.barrier()
    if ctx.ranks.rank == 0:
        _tell(ctx.hooks.ptl_round_finished, ctx=ctx, record=record)


def finish(ctx: RoundContext) -> None:
    """Tell the plugins that the run is done."""
    model = ctx.run.last_model()
    if ctx.ranks.rank == 0 and model is not None:
        run = RunRecord(folder=ctx.run.path, model=model, records=ctx.run.records())
        _tell(ctx.hooks.ptl_run_finished, run=run)


def answer(value: T | None, hook: str) -> T:
    """Return a step's answer; None means that no plugin took the step."""
    if value is None:
        raise PluginError(f"no plugin answered {hook}; was a built-in switched off with -p no:?")
    return value


def _tell(hook: pluggy.HookCaller, /, **arguments: object) -> None:
    for implementation in hook.get_hookimpls():
        kwargs = {name: arguments[name] for name in implementation.argnames}
        try:
            implementation.function(**kwargs)
        except Exception:
            logger.exception("plugin '%s' failed in %s", implementation.plugin_name, hook.name)


def _describe(spec: RoundSpec) -> str:
    cuts = (f"{c.unit}s by {c.criterion}, {c.selector} {show_amount(c.amount)}" for c in spec.cuts)
    return "; ".join(cuts) or "recovery only"


def _metrics(result: EvalResult) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
