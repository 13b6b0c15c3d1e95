"""`ptl run`: the prune-tune loop over stages of other frameworks."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ptl_plugins.cli.options import Plugins, RecipeFile


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(run)


def run(
    recipe: RecipeFile,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe.")
    ] = [],  # noqa: B006  # typer copies it
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Prune and recover in rounds; the same command again goes on where it was."""
    from ptl_plugins.errors import RecipeError
    from ptl_plugins.local_launch import terminating
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.recipe_file import read_recipe
    from ptl_plugins.run import run_recipe

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    checked = read_recipe(recipe, manager.hook, registry, overrides=set_)
    if checked.data is None:
        raise RecipeError(
            f"{recipe}: is a recipe of a training framework's own door; start it with "
            f"'llamafactory-cli train {recipe}'"
        )
    try:
        with terminating():
            model = run_recipe(checked, manager, registry)
    except (KeyboardInterrupt, SystemExit):
        typer.echo(f"ptl: stopped; the same command goes on: ptl run {recipe}", err=True)
        raise
    typer.echo(f"{model}: the last round's model")
