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
    """Check each recipe: keys, names, the model, every round, and the training's settings.

    The model is held against its config alone; the settings are read by the training framework's
    own parser, where it is installed, which takes seconds.
    """
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.preflight import plan_run
    from ptl_plugins.recipe_file import read_recipe
    from ptl_plugins.stage_check import check_stages

    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    failed = False
    for path in recipes:
        try:
            recipe = read_recipe(path, manager.hook, registry)
            planned = plan_run(recipe, registry)
            unchecked = check_stages(recipe, registry)
        except PTLError as error:
            typer.echo(f"ptl: {error}", err=True)
            failed = True
        else:
            note = f" ({'; '.join(unchecked)})" if unchecked else ""
            typer.echo(f"{path}: ok, {len(planned.rounds)} rounds{note}")
    if failed:
        raise SystemExit(USER_ERROR_EXIT_CODE)
