"""When a model is measured, and the step that does it."""

from __future__ import annotations

from ptl_plugins.step_answer import answer
from ptl_plugins.types import EvalResult, RoundContext, Subject


def measure_recovered(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Measure a round's model: the original, every n-th and the last, as the recipe says."""
    if not is_due(ctx):
        return None
    return _measure(ctx, subject, "evaluate")


def measure_pruned(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Measure a pruned model before its recovery, where the recipe says so."""
    if not ctx.recipe.evaluation.before_recovery:
        return None
    return _measure(ctx, subject, "evaluate_pruned")


def is_due(ctx: RoundContext) -> bool:
    """Whether the recipe says that a round's model is measured; round 0 is the original."""
    index, evaluation = ctx.spec.index, ctx.recipe.evaluation
    if index == 0:
        return evaluation.original
    return index == len(ctx.recipe.rounds) or index % evaluation.every == 0


def _measure(ctx: RoundContext, subject: Subject, step: str) -> EvalResult | None:
    if not ctx.recipe.evaluation.tasks:
        return None
    with ctx.log.timed(step):
        result: EvalResult = answer(
            ctx.hooks.ptl_evaluate(ctx=ctx, subject=subject), "ptl_evaluate"
        )
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    ctx.log.say(f"round {ctx.spec.index}: {step}: {metrics}")
    return result
