"""Finds files of a run that a disk has torn, and that no step reads any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

PLAN, NOTES, SCORES = "plan.json", "stage_*/done.json", "scores.safetensors"


def damaged_files(folder: Path, *, is_finished: bool) -> Iterator[Path]:
    """Yield the damaged plans, scores and notes of stages in a round's folder.

    An unfinished round reads its plan and its notes; its scores only where there is no plan.
    """
    for pattern in (PLAN, NOTES) if is_finished else ():
        yield from (path for path in sorted(folder.glob(pattern)) if not _is_json(path))
    scores = folder / SCORES
    if scores.exists() and (is_finished or _is_json(folder / PLAN)) and not _has_tensors(scores):
        yield scores


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _has_tensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (OSError, SafetensorError):
        return False
    return True
