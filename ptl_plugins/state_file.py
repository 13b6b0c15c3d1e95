"""Reads a run's own files, which a failing disk may have torn: the error says what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_plugins.errors import RunFolderError


def read_state(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in `path`, which is there.

    Args:
        path: a file that PTL wrote.
        remedy: what to do when it is damaged, as the end of a sentence.

    Raises:
        RunFolderError: it cannot be read, or holds no JSON object.
    """
    with intact(path, remedy):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError("is no JSON object")
    return value


@contextlib.contextmanager
def intact(path: Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while the contents of `path` are read into one line.

    Raises:
        RunFolderError: `path` is damaged.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path}: is damaged ({_reason(error)}); {remedy}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text} is missing" if isinstance(error, KeyError) else text
