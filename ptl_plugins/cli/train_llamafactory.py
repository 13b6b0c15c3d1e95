"""`ptl train-llamafactory`: the LLaMA-Factory door without the autoload."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Annotated

import typer

from ptl_plugins.errors import PTLError


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command(
        "train-llamafactory",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(train_llamafactory)


def train_llamafactory(
    recipe: Annotated[str, typer.Argument(help="A LLaMA-Factory yaml with a ptl: section.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.")] = None,
) -> None:
    """Do what `llamafactory-cli train RECIPE` does, also where the autoload is switched off."""
    if importlib.util.find_spec("llamafactory") is None:
        raise PTLError(
            "LLaMA-Factory is not installed here; install it: pip install 'ptl[llamafactory]'"
        )
    # the door is an entry point, so that this package imports no extension
    (door,) = importlib.metadata.entry_points(group="ptl.doors", name="llamafactory")
    door.load()([recipe, *(overrides or [])])
