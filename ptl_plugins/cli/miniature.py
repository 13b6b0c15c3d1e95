"""`ptl miniature`: model and data of the miniature study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptl_plugins.errors import PTLError


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(miniature)


def miniature(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets model/ and data/.")] = Path(
        "mini"
    ),
    train: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Problems of your own, jsonl as GSM8K's or MATH's."),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Problems that measure, with --train.")
    ] = None,
    times: Annotated[
        int,
        typer.Option(metavar="N", help="So many times the documents of each budget, for a GPU."),
    ] = 1,
) -> None:
    """Write SmolLM2-135M and the problems that recipes/mini reads; needs no network."""
    from ptl_plugins.quickstart.miniature import write_miniature

    if out.exists() and not out.is_dir():
        raise PTLError(f"miniature: --out {out}: is a file; give a folder")
    write_miniature(out, train=train, held_out=held_out, times=times)
    typer.echo(f"{out}: model and data are there")
