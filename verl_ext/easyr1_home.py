"""Whether a folder is a clone of EasyR1, and of which version; read as text."""

from __future__ import annotations

import re
from pathlib import Path

from ptl_plugins.given_path import given_path
from verl_ext.easyr1_schema import SUPPORTED

VERSION = re.compile(r"^__version__\s*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)


def clone(home: str) -> Path:
    """Return the absolute path of the clone that a stage names."""
    return given_path(home).resolve()


def home_problem(home: Path) -> str | None:
    """Return why a folder is no clone of a supported EasyR1, in one line, or None."""
    trainer = home / "verl" / "trainer"
    if (trainer / "main_ppo.py").is_file():
        return f"settings.home: '{home}' is verl, not EasyR1: use backend verl"
    if not (trainer / "main.py").is_file():
        lacking = "has no verl/trainer/main.py" if home.is_dir() else "is no folder"
        return f"settings.home: '{home}' {lacking}; give a clone of EasyR1"
    version = easyr1_version(home)
    if version not in SUPPORTED:
        return (
            f"settings.home: '{home}' is EasyR1 {version or 'of no known version'}; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    return None


def easyr1_version(home: Path) -> str | None:
    """Return what a clone says of its version, or None."""
    try:
        found = VERSION.search((home / "verl" / "__init__.py").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None
