"""Paths as people write them, in a recipe or on a command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pydantic


def given_path(text: str | Path) -> Path:
    """Return the path with a leading `~` as the home folder.

    The `~name` of an unknown user stays as it is, and is no file; `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111


def is_folder(text: str | Path) -> bool:
    """Whether a given path is a folder; what is too long or no path at all is none."""
    return os.path.isdir(given_path(text))  # noqa: PTH112  # Path.is_dir would raise


def is_there(text: str | Path) -> bool:
    """Whether a given path exists; what is too long or no path at all does not."""
    return os.path.exists(given_path(text))  # noqa: PTH110  # Path.exists would raise


def require_printable(value: str) -> str:
    """Return the path as it is given.

    Raises:
        ValueError: a character of it cannot be shown, such as a line's end or a NUL.
    """
    if not value.isprintable():
        raise ValueError("holds a character that cannot be shown; no path or name has one")
    return value


PathText = Annotated[str, pydantic.AfterValidator(require_printable), pydantic.Field(min_length=1)]
"""A path, or the name of something on a hub."""
