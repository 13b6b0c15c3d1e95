"""`ptl ls`: what is registered, and by whom."""

from __future__ import annotations

from typing import Annotated

import typer

from ptl_plugins.cli.options import Plugins
from ptl_plugins.errors import PTLError, did_you_mean

KINDS = (
    "recipes", "families", "criteria", "selectors", "backends", "launchers", "evaluators", "data",
    "plugins",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(ls)


def ls(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(KINDS)}.")] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """List what recipes may name, and where it comes from."""
    from ptl_plugins.manager import build_manager, build_registry, describe_plugins
    from ptl_plugins.shipped_recipes import describe_recipes

    if kind is not None and kind not in KINDS:
        raise PTLError(f"ls: unknown kind '{kind}'{did_you_mean(kind, KINDS)}; "
                       f"allowed: {', '.join(KINDS)}")  # fmt: skip
    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    catalogues = registry.catalogues()
    for name in KINDS if kind is None else (kind,):
        if name == "recipes":
            rows = describe_recipes()
        elif name == "plugins":
            rows = describe_plugins(manager)
        elif name == "criteria":
            found = registry.criteria
            rows = [(n, f"{c.unit:<6}  {found.origin(n)}") for n, c in found.items()]
        else:
            rows = [(n, catalogues[name].origin(n)) for n in catalogues[name].names()]
        _print(name, rows, heading=kind is None)


def _print(name: str, rows: list[tuple[str, str]], *, heading: bool) -> None:
    if heading:
        typer.echo(f"{name}:")
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        typer.echo(f"{'  ' if heading else ''}{first:<{width}}  {second}")
    if not rows:
        typer.echo(f"{'  ' if heading else ''}(none)")
