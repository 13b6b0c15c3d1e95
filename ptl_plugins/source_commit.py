"""The commit of PTL's own sources, so that a run's numbers can be traced to the code."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

import ptl_plugins

CHANGED = "+changes"
"""Follows the commit of a checkout whose files differ from it."""


def source_commit() -> str | None:
    """Return the commit that this PTL is of, or None where nothing tells.

    A checkout is asked by git; an installation from a repository noted it (PEP 610).
    """
    checkout = Path(ptl_plugins.__file__).parent.parent
    if (checkout / ".git").exists() and (commit := _git(checkout, "rev-parse", "HEAD")):
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        return commit + (CHANGED if changed else "")
    return _noted_commit()


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _noted_commit() -> str | None:
    try:
        text = importlib.metadata.distribution("ptl").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None
