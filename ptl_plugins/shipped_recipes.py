"""The recipes that PTL ships: in a checkout or an editable install, and inside the wheel."""

from __future__ import annotations

from pathlib import Path

import ptl_plugins


def recipes_folder() -> Path:
    """Return the folder `recipes`: beside the package in a checkout, in it in a wheel."""
    package = Path(ptl_plugins.__file__).parent
    checkout = package.parent / "recipes"
    return checkout if checkout.is_dir() else package / "recipes"


def describe_recipes() -> list[tuple[str, str]]:
    """Return the path below `recipes` of each shipped yaml, and its first comment line."""
    folder = recipes_folder()
    return [(str(p.relative_to(folder)), _first_comment(p)) for p in sorted(folder.rglob("*.yaml"))]


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
