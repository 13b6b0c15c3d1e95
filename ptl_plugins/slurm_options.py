"""Which long options of sbatch a recipe may give to the launcher `slurm`."""

from __future__ import annotations

import re
from typing import Any

OURS = ("array", "chdir", "clusters", "error", "help", "hold", "input", "open-mode", "output",
        "parsable", "quiet", "test-only", "usage", "version", "wait", "wrap")  # fmt: skip
"""Options that PTL sets itself, or with which it could not wait for the job."""
CLOCKS = ("begin", "deadline", "time", "time-min")


def option_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with one option in one line, which begins with its key, or None."""
    if not re.fullmatch("[a-z][a-z0-9-]+", key):
        return f"{key}: give the long name of an option of sbatch, without dashes"
    if key in OURS:
        return f"{key}: cannot be used here, PTL submits and waits; remove it"
    if not isinstance(value, str | int | float) or not str(value).isprintable():
        return f"{key}: {value!r}; give one text or number, or true for a flag"
    if key in CLOCKS and not isinstance(value, str):  # YAML reads 12:00:00 as 43200
        return f"{key}: {value!r}; put it in quotes, YAML makes numbers of times"
    return None
