"""`ptl validate`: check recipes without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptl_plugins.cli.options import Plugins
from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(validate)


def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files.")],
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Check each recipe: keys, names, the model's config, and that every round can be reached."""
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.preflight import plan_run
    from ptl_plugins.recipe_file import read_recipe

    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    failed = False
    for path in recipes:
        try:
            planned = plan_run(read_recipe(path, manager.hook, registry), registry)
        except PTLError as error:
            typer.echo(f"ptl: {error}", err=True)
            failed = True
        else:
            typer.echo(f"{path}: ok, {len(planned.rounds)} rounds")
    if failed:
        raise SystemExit(USER_ERROR_EXIT_CODE)
