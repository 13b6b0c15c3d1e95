"""`ptl study`: many runs of one file, their records, and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins
from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    from ptl_plugins.study.study_run import StudyRequest

FAILED_EXIT_CODE = 1


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(study)


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file.")],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the runs are: run what is left.")
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of all runs.")
    ] = [],  # noqa: B006  # typer copies it
    only: Annotated[
        list[str], typer.Option(metavar="NAME", help="Only these runs, and what they need.")
    ] = [],  # noqa: B006  # typer copies it
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, start nothing.")] = False,
    budget: Annotated[
        float | None, typer.Option(metavar="HOURS", min=0, help="Start no further run after it.")
    ] = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Delete no weights.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the records of --folder; run nothing.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="The records of a page.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page of the records in --from.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Run many recipes one after the other; the same command again goes on where it was.

    With --folder alone it runs, with --record it copies what tells the results, with --from and
    --page it writes tables and plots of such records.
    """
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.study.checking import Desk
    from ptl_plugins.study.study_file import read_study

    _require_one_job(folder, record, from_, page)
    if record is not None or from_ is not None:
        _refuse_idle(set_=set_, only=only, dry_run=dry_run, budget=budget, keep_models=keep_models)
    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    read = read_study(file)
    desk = Desk(
        study=read, words=tuple(set_), manager=manager, registry=registry, plugins=tuple(plugins)
    )
    if from_ is not None and page is not None:
        from ptl_plugins.study.study_page import write_page

        write_page(read, from_, page, registry)
        typer.echo(f"written: {page}")
    elif folder is not None and record is not None:
        from ptl_plugins.study.recording import record_study

        record_study(desk, folder, record, typer.echo)
    elif folder is not None:
        from ptl_plugins.study.study_run import StudyRequest

        request = StudyRequest(
            desk=desk, folder=folder, only=tuple(only), budget=budget, keeps_models=keep_models
        )
        _run(request, dry_run=dry_run)


def _require_one_job(
    folder: Path | None, record: Path | None, from_: Path | None, page: Path | None
) -> None:
    if (from_ is None) != (page is None):
        raise PTLError("--from and --page go together: the records, and the file to write")
    if folder is None and from_ is None:
        raise PTLError("nothing to do: give --folder DIR to run, or --from DIR and --page FILE")
    if folder is not None and from_ is not None:
        raise PTLError("--from: does not go with --folder; record first, then make the page")
    if record is not None and folder is None:
        raise PTLError(f"--record {record}: needs --folder DIR, whose runs are recorded")


def _refuse_idle(**given: object) -> None:
    """Refuse options of a run where nothing is run."""
    for name, value in given.items():
        if value not in (None, False, []):
            option = f"--{name.strip('_').replace('_', '-')}"
            raise PTLError(f"{option}: is of a run; --record and --from run nothing, leave it out")


def _run(request: StudyRequest, *, dry_run: bool) -> None:
    """Run what is left, or tell it; whatever ends it early, say that the same command goes on."""
    from ptl_plugins.study.study_run import preview, run_study
    from ptl_plugins.termination import terminating

    if dry_run:
        preview(request, typer.echo)
        return
    try:
        with terminating():
            outcome = run_study(request, typer.echo)
    except (KeyboardInterrupt, SystemExit):
        typer.echo("ptl: stopped; the same command goes on", err=True)
        raise
    if outcome.not_started:
        typer.echo(f"budget: {outcome.not_started} runs left; the same command goes on")
    for failure in outcome.failed.values():
        typer.echo(f"ptl: {failure}", err=True)
    if outcome.failed:
        raise SystemExit(FAILED_EXIT_CODE)
    typer.echo(f"{request.folder}: the runs are here")
