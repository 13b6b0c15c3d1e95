"""What a folder holds, to tell whether a command left anything there."""

from __future__ import annotations

import hashlib
from pathlib import Path

READ_BYTES = 1 << 20
"""A larger file is told by its size and its time alone."""


def folder_tree(folder: Path) -> dict[str, str]:
    """Return what lies below `folder`: relative path -> mode and contents."""
    return {str(path.relative_to(folder)): _entry(path) for path in sorted(folder.rglob("*"))}


def _entry(path: Path) -> str:
    facts = path.lstat()
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return f"{facts.st_mode:o}"
    if facts.st_size > READ_BYTES:
        return f"{facts.st_mode:o} {facts.st_size} {facts.st_mtime_ns}"
    return f"{facts.st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
