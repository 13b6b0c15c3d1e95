"""The manifest's facts: what makes the numbers believable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptl_plugins.report.document import Code, Section, Table, text_column
from ptl_plugins.report.formats import MISSING
from ptl_plugins.report.runs import Run

NAMED = {
    "started": "started",
    "recipe_file": "recipe file",
    "seed": "seed",
    "num_ranks": "processes",
    "git_commit": "git commit",
    "plugins": "plugins",
}
"""Facts of the manifest that every report shows, `-` where one is missing."""

HARDWARE = ("processor", "cores", "memory_gb", "accelerators")
ELSEWHERE = {"recipe", "recipe_text", "hardware", "versions"}


def facts_section(runs: Sequence[Run]) -> Section:
    """Return the table of facts, a column for each run."""
    found = [facts_of(run) for run in runs]
    names = list(dict.fromkeys(name for facts in found for name in facts))
    rows = ((name, *(facts.get(name, MISSING) for facts in found)) for name in names)
    columns = (text_column("fact"), *(text_column(run.name) for run in runs))
    return Section(heading="Facts", blocks=(Table(columns=columns, rows=tuple(rows)),))


def recipe_section(run: Run, heading: str) -> Section:
    """Return the recipe's text."""
    text = run.manifest.get("recipe_text")
    return Section(heading=heading, blocks=(Code(text=text if isinstance(text, str) else MISSING),))


def facts_of(run: Run) -> dict[str, str]:
    """Return the facts of a manifest by name; those that PTL does not know stand at the end."""
    manifest = run.manifest
    facts = {"run folder": str(run.path), "model": run.recipe.model}
    facts |= {name: as_text(manifest.get(key)) for key, name in NAMED.items()}
    hardware = _mapping(manifest.get("hardware"))
    facts |= {key.replace("_", " "): as_text(hardware.get(key)) for key in HARDWARE}
    if hardware.get("accelerators") == []:
        facts["accelerators"] = "none"
    facts |= {f"version of {k}": as_text(v) for k, v in _mapping(manifest.get("versions")).items()}
    others = sorted(manifest.keys() - NAMED.keys() - ELSEWHERE)
    return facts | {key: as_text(manifest[key]) for key in others}


def as_text(value: Any) -> str:
    """Return a fact as text; lists and mappings with commas."""
    if value is None or value in ("", [], {}):
        return MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(as_text(inner) for inner in value)
    return str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
