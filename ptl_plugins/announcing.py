"""Tells the plugins what is finished, once it is on the disk."""

from __future__ import annotations

import logging

import pluggy

from ptl_plugins.types import RoundContext, RoundRecord, RunRecord

logger = logging.getLogger(__name__)


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


def _tell(hook: pluggy.HookCaller, /, **arguments: object) -> None:
    for implementation in reversed(hook.get_hookimpls()):  # pluggy's order: built-ins come last
        kwargs = {name: arguments[name] for name in implementation.argnames}
        try:
            implementation.function(**kwargs)
        except Exception:
            logger.exception("plugin '%s' failed in %s", implementation.plugin_name, hook.name)
