"""A round whose training diverged: how it is found at the end of a stage, and how it is marked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ptl_plugins.errors import DivergedError, RunFolderError
from ptl_plugins.health import Step, first_trouble
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.types import Cut, RoundContext

FAILED = "failed.json"
"""In a round's folder: its training diverged. It goes when the round is tried again."""
Halves = tuple[tuple[Cut, ...], tuple[Cut, ...]]
"""Cuts of the two rounds that take the place of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What `failed.json` holds."""

    round: int
    """As the rounds were numbered when it failed."""
    planned: int
    """The recipe's own number of it."""
    reason: str
    """One line, without what to try."""
    last_good: str
    """The model that the round began with: that of the last good round, or the original."""
    time: float
    """Seconds since 1970."""
    advice: str = ""
    """What to try."""
    halves: Halves | None = None
    """What was done in its place; None: nothing yet."""


def require_healthy(ctx: RoundContext, steps: Iterable[Step], where: Path) -> None:
    """Hold what a stage told of its training against the recipe's `health`, on every rank.

    Args:
        ctx: the round.
        steps: in order.
        where: the stage's folder, for the message.

    Raises:
        DivergedError: a rank finds it ill; all of them raise.
    """
    found = first_trouble(steps, ctx.recipe.health, vocabulary=ctx.original.vocabulary)
    require_no_trouble(ctx, found, where)


def require_no_trouble(ctx: RoundContext, found: str | None, where: Path) -> None:
    """Raise on every rank where one of them found something.

    Raises:
        DivergedError: with the first rank's finding.
    """
    trouble = next(filter(None, ctx.ranks.gather(found)), None)
    if trouble is not None:
        raise DivergedError(f"{where}: the training diverged: {trouble}")


@contextlib.contextmanager
def noting_divergence(ctx: RoundContext) -> Iterator[None]:
    """Mark the round as failed where its training diverges in the body.

    The mark of an earlier try goes first.
    """
    if ctx.run.writes:
        (ctx.folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except DivergedError as error:
        failure = Failure(
            round=ctx.spec.index,
            planned=ctx.spec.planned,
            reason=error.what,
            last_good=str(ctx.run.last_model() or ctx.recipe.model),
            time=time.time(),
            advice=error.advice,
        )
        ctx.run.write(ctx.folder / FAILED, dataclasses.asdict(failure))
        facts = {"reason": failure.reason, "advice": failure.advice}
        ctx.run.event("round_failed", round=failure.round, **facts)
        raise


def read_failure(path: Path) -> Failure:
    """Read a `failed.json`.

    Raises:
        RunFolderError: it is damaged.
    """
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
        if keys["halves"] is not None:
            first, rest = (tuple(Cut(**cut) for cut in cuts) for cuts in keys["halves"])
            keys["halves"] = (first, rest)
        return Failure(**keys)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: is damaged ({error}); bring it back") from error


def current_failure(run: RunFolder) -> Failure | None:
    """Return why the first round that is not finished failed, if it did."""
    path = run.round_folder(run.num_finished() + 1) / FAILED
    return read_failure(path) if path.is_file() else None
