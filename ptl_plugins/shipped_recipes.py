"""The recipes that PTL ships: in a checkout or an editable install, and inside the wheel."""

from __future__ import annotations

from pathlib import Path

import ptl_plugins

BASELINES = ("shortgpt", "slicegpt", "prune_once", "control")
"""How the file names of the baselines' recipes end."""
STUDY = "study.yaml"
"""A file of this name runs the recipes beside it: `ptl study`."""
SCHEMA = "schema.json"
"""The file beside them that tells editors which keys a recipe has."""
MODELINE = "# yaml-language-server:"
"""What a line that names a file's schema begins with."""


def recipes_folder() -> Path:
    """Return the folder `recipes`: beside the package in a checkout, in it in a wheel."""
    package = Path(ptl_plugins.__file__).parent
    checkout = package.parent / "recipes"
    return checkout if checkout.is_dir() else package / "recipes"


def describe_recipes() -> list[tuple[str, str]]:
    """Return the path below `recipes` of each shipped recipe, and its first comment line."""
    folder = recipes_folder()
    return [(str(path.relative_to(folder)), _first_comment(path)) for path in recipe_files()]


def recipe_files() -> list[Path]:
    """Return every shipped recipe: all yaml files but the studies."""
    return sorted(path for path in recipes_folder().rglob("*.yaml") if path.name != STUDY)


def describe_baselines() -> list[tuple[str, str, str]]:
    """Return baseline, path below `recipes` and first comment line of the baselines' recipes."""
    return [
        (baseline, path, text)
        for baseline in BASELINES
        for path, text in describe_recipes()
        if Path(path).stem.endswith(baseline)
    ]


def _first_comment(path: Path) -> str:
    """Return the first line, or the second where the first is the editors'."""
    first, second, *_ = [*path.read_text(encoding="utf-8").split("\n", maxsplit=2), ""]
    line = second if first.startswith(MODELINE) else first
    return line.lstrip("# ") if line.startswith("#") else ""
