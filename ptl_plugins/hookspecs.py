"""The hooks of PTL: one that registers names, the steps of a round, and the announcements.

Steps are first-result hooks: the last registered implementation that returns something other
than None answers; PTL's own implementations come last. A `wrapper=True` implementation works
before and after whoever answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pluggy

    from ptl_plugins.recipe import RecipeSource
    from ptl_plugins.registry import Registry
    from ptl_plugins.stage_types import Command, CommandResult, StageSpec
    from ptl_plugins.types import (
        EvalResult,
        PrunePlan,
        Recipe,
        RoundContext,
        RoundRecord,
        RunRecord,
        Scores,
        Subject,
    )

    Hooks = pluggy.HookRelay


@hookspec
def ptl_register(registry: Registry) -> None:
    """Called once per plugin manager, before any other hook, to add named components.

    :param registry: catalogues of families, criteria, selectors, backends, launchers,
        evaluators and data.
    """


@hookspec(firstresult=True)
def ptl_read_recipe(source: RecipeSource) -> Recipe | None:
    """Called with a recipe file, parsed but unchecked, to turn it into a recipe.

    Stops at the first non-None result.

    :param source: the file, its keys and the registry; errors are collected in it.
    :return: the checked recipe, or None for a file of another kind.
    """


@hookspec(firstresult=True)
def ptl_profile(ctx: RoundContext, subject: Subject) -> Scores | None:
    """Called in every rank of the profiling process, once per round that cuts.

    Stops at the first non-None result.

    :param ctx: the round.
    :param subject: the model before the cut.
    :return: statistics, equal in every rank.
    """


@hookspec(firstresult=True)
def ptl_select(ctx: RoundContext, scores: Scores) -> PrunePlan | None:
    """Called after profiling to choose what goes.

    Stops at the first non-None result.

    :param ctx: the round.
    :param scores: the statistics of `ptl_profile`.
    :return: the plan, equal in every rank.
    """


@hookspec(firstresult=True)
def ptl_prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject | None:
    """Called to carry out a plan.

    Stops at the first non-None result.

    :param ctx: the round.
    :param subject: the model before the cut.
    :param plan: what goes.
    :return: the model after the cut (for a live model the same one, changed in place).
    """


@hookspec(firstresult=True)
def ptl_recover(ctx: RoundContext, stage: StageSpec, subject: Subject) -> Subject | None:
    """Called once per recovery stage of a round.

    Stops at the first non-None result.

    :param ctx: the round.
    :param stage: the stage's backend and the framework's own settings.
    :param subject: the pruned model.
    :return: the recovered model, of the same shape.
    """


@hookspec(firstresult=True)
def ptl_launch(ctx: RoundContext, command: Command) -> CommandResult | None:
    """Called in a stage of `ptl run` to run the backend's program and wait for it.

    Stops at the first non-None result. A launcher answers for the commands that name it.

    :param ctx: the round.
    :param command: words, folder, log file, environment, and the stage's `launch`.
    :return: how it ended; the log holds what it said.
    """


@hookspec(firstresult=True)
def ptl_evaluate(ctx: RoundContext, subject: Subject) -> EvalResult | None:
    """Called on the original, and on every round's model before and after recovery.

    Stops at the first non-None result.

    :param ctx: the round.
    :param subject: the model.
    :return: the metrics.
    """


@hookspec
def ptl_trainer_callbacks(ctx: RoundContext) -> Sequence[object] | None:
    """Called inside the training process before each round's training.

    :param ctx: the round.
    :return: `transformers.TrainerCallback`s for this round's training; they see each log
        before TensorBoard, W&B or SwanLab do and may add to it.
    """


@hookspec
def ptl_round_finished(ctx: RoundContext, record: RoundRecord) -> None:
    """Called on the main rank when a round's record is on disk.

    An exception here is logged with the plugin's name and loses nothing. Cannot be wrapped.

    :param ctx: the round.
    :param record: what it was and measured.
    """


@hookspec
def ptl_run_finished(run: RunRecord) -> None:
    """Called on the main rank when the last round is done.

    An exception here is logged with the plugin's name. Cannot be wrapped.

    :param run: the folder and all records.
    """
