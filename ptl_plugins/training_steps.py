"""Takes what a stage's program noted of its training steps into the run's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_plugins.run_folder import RunFolder

EVENT = "training_step"
RESERVED = {"time", "event", "round", "stage"}
"""What every event of a stage has of its own."""


def note_steps(run: RunFolder, path: Path, *, round_index: int, stage: int) -> int:
    """Append an event for each line of `path`; return how many.

    Args:
        run: whose events.
        path: a JSON object a line, with `step` and what was measured; a last line that a killed
            program left unfinished is passed over.
        round_index: from 1.
        stage: its index in the round.
    """
    number = 0
    for facts in read_steps(path):
        run.event(EVENT, round=round_index, stage=stage, **facts)
        number += 1
    return number


def read_steps(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the lines of `path` hold, beside what every event has; no file, no lines."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if isinstance(facts, dict):
            yield {key: value for key, value in facts.items() if key not in RESERVED}
