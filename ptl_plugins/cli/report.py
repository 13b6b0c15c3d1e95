"""`ptl report`: what runs cut, measured and cost, as tables, plots and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(report)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Run folders: output_dir of a run.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: report in the first RUN_DIR.")
    ] = None,
) -> None:
    """Show the rounds of a run, or several runs side by side; write Markdown, plots, a page."""
    from rich.console import Console

    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.report.write import run_report

    run_report(runs, out, build_registry(build_manager()), Console())
