"""Takes a machine's paths out of what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABSOLUTE = re.compile(r"(?<![\w./:-])/(?:[\w.+@=,-]+/)+[\w.+@=,-]*")
"""A path from the root with two parts or more; no address of the web."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders that recorded paths are relative to, resolved."""

    study: Path
    """Of the study file."""
    folder: Path
    """Of the runs, `--folder`."""
    here: Path
    """Where the command was given, which a recipe's own paths are relative to."""

    def portable(self, value: Any) -> Any:
        """Return plain values with every absolute path in them made short."""
        if isinstance(value, Mapping):
            return {key: self.portable(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.portable(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """Return text with every absolute path in it made short."""
        if text.startswith("/") and "\n" not in text and Path(text).exists():  # spaces and all
            return self._path(Path(text))
        return ABSOLUTE.sub(lambda match: self._path(Path(match[0])), text)

    def _path(self, path: Path) -> str:
        """Return a path relative to the first folder that holds it, or else its last name."""
        for base in (self.folder, self.here, self.study):
            if path.is_relative_to(base) and path != base:
                return path.relative_to(base).as_posix()
        return path.name


def places(study: Path, folder: Path) -> Places:
    """Return the places of a study file and its folder."""
    return Places(study=study.resolve().parent, folder=folder.resolve(), here=Path.cwd())
