"""Checks that what plugins registered is what its catalogue holds, before anything asks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ptl_plugins.families import Family
from ptl_plugins.registry import Registry

NEEDED: Mapping[str, tuple[str, ...]] = {
    "criteria": ("unit", "statistics", "importance"),
    "selectors": ("check", "count"),
    "backends": ("check", "check_thoroughly", "job", "collect"),
    "launchers": ("check",),
    "evaluators": ("check", "evaluate"),
}
"""Catalogue -> what its Protocol in `components` or `stage_types` has."""


def wrong_components(registry: Registry) -> Iterator[tuple[str, str]]:
    """Yield the plugin, and what is wrong, of each component that cannot be used."""
    for kind, catalogue in registry.catalogues().items():
        for name in catalogue.names():
            if wrong := _wrong(kind, catalogue.get(name)):
                yield catalogue.origin(name), f"{catalogue.kind} '{name}' {wrong}"


def _wrong(kind: str, component: object) -> str | None:
    shown = type(component).__name__
    if kind == "families":
        is_family = isinstance(component, Family)
        return None if is_family else f"is a {shown}, not a ptl_plugins.families.Family"
    missing = [name for name in NEEDED.get(kind, ()) if not hasattr(component, name)]
    return f"is a {shown}, which has no '{missing[0]}'" if missing else None
