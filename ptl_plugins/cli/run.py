"""`ptl run`: the prune-tune loop over stages of other frameworks."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins, RecipeFile
from ptl_plugins.errors import RecipeError, StageError
from ptl_plugins.given_path import given_path
from ptl_plugins.secret_values import RedactingFormatter, redacted

if TYPE_CHECKING:
    from ptl_plugins.manager import PTLPluginManager
    from ptl_plugins.registry import Registry
    from ptl_plugins.types import Recipe


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(run)


def run(
    recipe: RecipeFile,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="The run folder, in place of the recipe's."),
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe.")
    ] = [],  # noqa: B006  # typer copies it
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print every command and file; write and start nothing."),
    ] = False,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Prune and recover in rounds; the same command again goes on where it was."""
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.recipe_file import read_recipe

    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    checked = _placed(read_recipe(recipe, manager.hook, registry, overrides=set_), run_dir)
    if dry_run:
        _print_dry_run(checked, manager, registry)
    else:
        again = _command_line(recipe, run_dir, set_, plugins)
        _run(checked, manager, registry, again)


def _placed(recipe: Recipe, run_dir: str | None) -> Recipe:
    """Return the recipe with the run folder that the command line names."""
    if recipe.data is None:
        raise RecipeError(
            f"{recipe.source}: is a recipe of a training framework's own door; start it with "
            f"'llamafactory-cli train {recipe.source}'"
        )
    if run_dir is None:
        return recipe
    if not run_dir:
        raise RecipeError("--run-dir: is empty; name a folder")
    return dataclasses.replace(recipe, run_folder=given_path(run_dir))


def _print_dry_run(recipe: Recipe, manager: PTLPluginManager, registry: Registry) -> None:
    from ptl_plugins.dry_run import dry_run_lines
    from ptl_plugins.run import prepare_run

    for line in dry_run_lines(prepare_run(recipe, manager, registry, writes=False)):
        typer.echo(redacted(line))


def _run(recipe: Recipe, manager: PTLPluginManager, registry: Registry, again: str) -> None:
    """Run the recipe; whatever ends it early, say which command goes on."""
    from ptl_plugins.run import run_recipe
    from ptl_plugins.termination import terminating

    try:
        with terminating():
            model = run_recipe(recipe, manager, registry)
    except (KeyboardInterrupt, SystemExit):
        typer.echo(f"ptl: stopped; the same command goes on: {again}", err=True)
        raise
    except StageError as error:
        hint = f"once the cause is mended, the same command goes on: {again}"
        raise StageError(f"{error}\n{hint}") from error
    typer.echo(f"{model}: the last round's model")


def _command_line(
    recipe: Path, run_dir: str | None, overrides: Sequence[str], plugins: Sequence[str]
) -> str:
    """Return the command that was given, as a shell takes it."""
    words = ["ptl", "run", str(recipe)]
    if run_dir is not None:
        words += ["--run-dir", run_dir]
    for option, values in (("--set", overrides), ("-p", plugins)):
        words += [word for value in values for word in (option, value)]
    return redacted(shlex.join(words))
