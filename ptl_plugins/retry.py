"""The loop, taken up again where a training diverged and the recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ptl_plugins.divergence import Halves, current_failure
from ptl_plugins.errors import DivergedError
from ptl_plugins.half_steps import (
    MOST_HALVINGS,
    halves_of,
    set_aside,
    set_round_aside,
    split_recipe,
    split_round,
)
from ptl_plugins.loop import prune_tune_loop
from ptl_plugins.run_folder import read_plan
from ptl_plugins.types import RoundContext, Subject

OTHERWISE = "try a smaller step of pruning or a lower learning rate"


def run_rounds(
    start: RoundContext,
    subject: Subject,
    describe: Callable[[Subject], dict[str, int]],
    reload: Callable[[], Subject],
) -> Subject:
    """Run the loop; with `on_divergence: retry_with_half_step`, take a round that diverged again.

    Args:
        start: as `prune_tune_loop` takes it.
        subject: as `prune_tune_loop` takes it.
        describe: as `prune_tune_loop` takes it.
        reload: gives the model of the last good round, or the original, in place of one whose
            training diverged.

    Raises:
        DivergedError: the recipe says stop, or the step cannot be halved.
    """
    start = _with_earlier_failure(start)
    while True:
        try:
            return prune_tune_loop(start, subject, describe)
        except DivergedError as error:
            if start.recipe.on_divergence == "stop":
                raise
            halved = _take_in_halves(start)
            if isinstance(halved, str):
                raise DivergedError(error.what, f"{halved}; {OTHERWISE}") from error
            start = halved
        subject = reload()


def _with_earlier_failure(start: RoundContext) -> RoundContext:
    """Take a round in halves that an earlier command left as failed; else it is tried again."""
    failed = start.ranks.gather(current_failure(start.run) is not None)[0]
    if not failed or start.recipe.on_divergence == "stop":
        return start
    halved = _take_in_halves(start)
    return start if isinstance(halved, str) else halved


def _take_in_halves(start: RoundContext) -> RoundContext | str:
    """Return the context of a run with two rounds in place of the failed one, or why there is none.

    The main rank's view counts.
    """
    index, halves = start.ranks.gather(_halves(start))[0]
    if isinstance(halves, str):
        return halves
    if start.run.writes:
        keeps_all = start.recipe.keep.intermediate
        folder = set_round_aside(start.run, index, halves, keeps_all=keeps_all)
        start.run.event("round_halved", round=index, set_aside=folder.name)
    start.ranks.barrier()
    start.log.say(f"round {index} diverged: it is taken again with half of the step")
    recipe = split_recipe(start.recipe, split_round(start.recipe.rounds, index, halves))
    return replace(start, recipe=recipe, corpus=start.corpus.for_rounds(recipe.rounds))


def _halves(start: RoundContext) -> tuple[int, Halves | str]:
    """Return the failed round's index, and its halves or why there are none."""
    spec = start.recipe.rounds[start.run.num_finished()]
    plan = read_plan(start.run.round_folder(spec.index))
    if plan is None:
        return spec.index, "the round cuts nothing that could be halved"
    earlier = sum(failure.planned == spec.planned for failure in set_aside(start.run.path))
    if earlier >= MOST_HALVINGS:
        return spec.index, f"the step was halved {earlier} times already"
    halves = halves_of(spec, plan, multiple_of=start.recipe.multiple_of)
    return spec.index, halves or "the step cannot be halved any more"
