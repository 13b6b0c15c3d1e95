"""`ptl quickstart`: the whole loop on a small real model, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Where everything is put.")] = Path(
        "quickstart"
    ),
) -> None:
    """Prune SmolLM2-135M in rounds with LLaMA-Factory on this machine, and print what it cost."""
    from ptl_plugins.quickstart.run import run_quickstart

    run_quickstart(out)
