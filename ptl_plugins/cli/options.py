"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plugins = Annotated[
    list[str],
    typer.Option("-p", metavar="NAME", help="Load a plugin module, or keep one out: no:NAME."),
]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A LLaMA-Factory yaml with a ptl: section.")
]
