"""Reads a JSON file that somebody else wrote: of a sane size, and no deeper than can be walked."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""The index of a model of a trillion parameters has some megabytes."""


def read_json(path: Path) -> Any:
    """Return what the file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, too large, not UTF-8, no JSON, or nested too deeply.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    try:
        return json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
