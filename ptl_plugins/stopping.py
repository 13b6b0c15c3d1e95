"""What a run that is stopped leaves behind: an event that tells where it stood."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ptl_plugins.manager import PTLPluginManager
from ptl_plugins.markers import hookimpl
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import RoundContext


@contextlib.contextmanager
def noting_stop(run: RunFolder, manager: PTLPluginManager) -> Iterator[None]:
    """Append the event `stopped`, with round and step, when a signal ends the body."""
    place = _Place()
    manager.register(place)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        run.event("stopped", **place.facts)
        raise
    finally:
        manager.unregister(place)


class _Place:
    """A plugin that answers no step, and remembers the one that was asked for last."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"round": None, "step": "start"}

    @hookimpl(tryfirst=True)
    def ptl_profile(self, ctx: RoundContext) -> None:
        self._note(ctx, "profile")

    @hookimpl(tryfirst=True)
    def ptl_select(self, ctx: RoundContext) -> None:
        self._note(ctx, "select")

    @hookimpl(tryfirst=True)
    def ptl_prune(self, ctx: RoundContext) -> None:
        self._note(ctx, "prune")

    @hookimpl(tryfirst=True)
    def ptl_recover(self, ctx: RoundContext, stage: StageSpec) -> None:
        stages = ctx.stages
        self._note(ctx, "recover", stage=next(i for i, s in enumerate(stages) if s is stage))

    @hookimpl(tryfirst=True)
    def ptl_evaluate(self, ctx: RoundContext) -> None:
        self._note(ctx, "evaluate")

    def _note(self, ctx: RoundContext, step: str, **facts: int) -> None:
        self.facts = {"round": ctx.spec.index, "step": step, **facts}
