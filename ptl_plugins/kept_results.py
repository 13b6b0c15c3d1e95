"""Keeps what was measured until the round's record holds it, so that a kill loses none of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from ptl_plugins.errors import RunFolderError
from ptl_plugins.state_file import intact, read_state
from ptl_plugins.types import EvalResult, RoundContext

PREFIX = "measured_"

logger = logging.getLogger(__name__)


def kept_result(ctx: RoundContext, model: Path) -> EvalResult | None:
    """Return what an earlier try measured on the same files with the same tasks, or None."""
    path = _path(ctx, model)
    if not path.exists():
        return None
    try:
        with intact(path, "it is measured again"):
            kept = read_state(path, "it is measured again")
            return EvalResult(**kept["result"]) if kept["of"] == _of(ctx, model) else None
    except RunFolderError as error:
        logger.warning("PTL: %s", error)
        return None


def keep_result(ctx: RoundContext, model: Path, result: EvalResult) -> None:
    """Write down what was measured on the checkpoint `model`."""
    what = {"of": _of(ctx, model), "result": dataclasses.asdict(result)}
    ctx.run.write(_path(ctx, model), what)


def forget_results(ctx: RoundContext) -> None:
    """Delete what the round's record holds by now."""
    for path in ctx.folder.glob(f"{PREFIX}*.json"):
        path.unlink()


def _path(ctx: RoundContext, model: Path) -> Path:
    return ctx.folder / f"{PREFIX}{model.name}.json"


def _of(ctx: RoundContext, model: Path) -> Any:
    """Return what tells a measurement from others: the tasks, and the files as they are."""
    tasks = [dataclasses.asdict(task) for task in ctx.recipe.evaluation.tasks]
    stats = [(path.name, path.stat()) for path in sorted(model.iterdir()) if path.is_file()]
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return json.loads(json.dumps([tasks, files], default=str))
