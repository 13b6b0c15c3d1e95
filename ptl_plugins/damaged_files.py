"""Finds files of finished rounds that a disk has torn since; no step reads them any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

JSON_FILES = ("plan.json", "stage_*/done.json")
SCORES = "scores.safetensors"


def damaged_files(folder: Path) -> Iterator[Path]:
    """Yield the damaged plans, scores and notes of stages in a round's folder."""
    for pattern in JSON_FILES:
        for path in sorted(folder.glob(pattern)):
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                yield path
    if (folder / SCORES).exists():
        try:
            with safe_open(folder / SCORES, framework="numpy") as file:
                file.keys()
        except (OSError, SafetensorError):
            yield folder / SCORES
