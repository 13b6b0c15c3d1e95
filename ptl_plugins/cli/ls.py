"""`ptl ls`: what is registered, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins
from ptl_plugins.errors import PTLError, did_you_mean

if TYPE_CHECKING:
    from ptl_plugins.manager import PTLPluginManager
    from ptl_plugins.registry import Registry

KINDS = (
    "recipes", "baselines", "families", "criteria", "selectors", "backends", "launchers",
    "evaluators", "data", "corpora", "plugins",
)  # fmt: skip
BEYOND_THE_PAPER = {
    "wanda_structured": ("criterion: wanda_structured", "|activation| x |weight| of a neuron"),
    "taylor": ("criterion: taylor", "|gradient x activation| of a neuron, by a backward pass"),
    "distillation": (
        "distill: {teacher: original, weight: 0.5}",
        "recovery that learns from a teacher as well",
    ),
}
"""Baselines that are a recipe of PTL's with other words: which words, and what they do."""


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(ls)


def ls(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(KINDS)}.")] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """List what recipes may name, and where it comes from."""
    from ptl_plugins.manager import build_manager, build_registry

    if kind is not None and kind not in KINDS:
        raise PTLError(f"ls: unknown kind '{kind}'{did_you_mean(kind, KINDS)}; "
                       f"allowed: {', '.join(KINDS)}")  # fmt: skip
    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    for name in KINDS if kind is None else (kind,):
        _print(name, _rows(name, manager, registry), heading=kind is None)


def _rows(kind: str, manager: PTLPluginManager, registry: Registry) -> list[tuple[str, str]]:
    """Return name and description of everything of a kind."""
    from ptl_plugins.manager import describe_plugins
    from ptl_plugins.shipped_recipes import describe_recipes

    if kind == "recipes":
        return describe_recipes()
    if kind == "baselines":
        return _baselines()
    if kind == "corpora":
        from ptl_plugins.corpora.catalogue import CORPORA

        return [(name, corpus.about) for name, corpus in CORPORA.items()]
    if kind == "plugins":
        return describe_plugins(manager)
    if kind == "criteria":
        found = registry.criteria
        return [(n, f"{c.unit:<6}  {found.origin(n)}") for n, c in found.items()]
    catalogue = registry.catalogues()[kind]
    return [(name, catalogue.origin(name)) for name in catalogue.names()]


def _baselines() -> list[tuple[str, str]]:
    """Return name and recipe of each baseline: a file, or the words that a recipe gets."""
    from ptl_plugins.shipped_recipes import describe_baselines

    rows = describe_baselines()
    rows += [(name, words, what) for name, (words, what) in BEYOND_THE_PAPER.items()]
    width = max(len(recipe) for _, recipe, _ in rows)
    return [(name, f"{recipe:<{width}}  {what}") for name, recipe, what in rows]


def _print(name: str, rows: list[tuple[str, str]], *, heading: bool) -> None:
    if heading:
        typer.echo(f"{name}:")
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        typer.echo(f"{'  ' if heading else ''}{first:<{width}}  {second}")
    if not rows:
        typer.echo(f"{'  ' if heading else ''}(none)")
