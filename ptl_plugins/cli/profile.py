"""`ptl profile`: one pass of reasoning text through a checkpoint, for many prunes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins

if TYPE_CHECKING:
    from ptl_plugins.profile_run import Report
    from ptl_plugins.ranks import Ranks


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(profile)


def profile(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder or hub name.")],
    data: Annotated[str, typer.Option(help="json, jsonl, parquet, txt, or a hub data set.")],
    out: Annotated[Path, typer.Option(help="The scores file to write (safetensors).")],
    samples: Annotated[int, typer.Option(min=1, help="Texts that are read.")] = 128,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens each is cut to.")] = 1024,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Padded tokens per batch.")] = 2048,
    second_moments: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write what a refit needs, by layer.")
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Also what takes a backward pass (taylor).")
    ] = False,
    protect: Annotated[
        str | None, typer.Option(help="A second corpus, whose neurons can be protected.")
    ] = None,
    column: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    template: Annotated[
        str | None,
        typer.Option(
            help="Text with {columns}, in place of --column; \\n, \\t, \\\\ as in Python."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of a hub data set.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of texts.")] = 0,
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a model type that no family lists.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Gather the statistics of every criterion in one pass; interrupted, it goes on.

    With several GPUs: torchrun --nproc-per-node 4 -m ptl_plugins profile ...
    """
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.profile_run import ProfileRequest, run_profile

    request = ProfileRequest(
        model=model,
        data=data,
        out=out,
        samples=samples,
        max_length=max_length,
        batch_tokens=batch_tokens,
        second_moments=second_moments,
        gradients=gradients,
        protect=protect,
        column=column,
        template=None if template is None else unescaped(template),
        split=split,
        seed=seed,
        family=family,
    )
    registry = build_registry(build_manager(plugins=plugins))
    with process_group() as ranks, progress(ranks) as report:
        scores, was_there = run_profile(request, registry, ranks, report)
    if ranks.rank == 0:
        done = "were there already" if was_there else "written"
        typer.echo(f"{out}: scores {done}: {scores.num_tokens} tokens of {scores.num_sequences} "
                   f"texts, {len(scores.statistics)} statistics")  # fmt: skip


def unescaped(template: str) -> str:
    r"""Return the template with \n, \t and \\ made one character each: shells leave them."""
    characters = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: characters[found[1]], template)


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Yield the ranks that torchrun started, or the single process."""
    from ptl_plugins.ranks import SingleProcess, TorchRanks

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SingleProcess()
        return
    import torch.distributed as dist

    from ptl_plugins.live import accelerator

    device = accelerator()
    dist.init_process_group(dist.get_default_backend_for_device(device))
    try:
        yield TorchRanks()
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def progress(ranks: Ranks) -> Iterator[Report]:
    """Yield what shows the batches done and the time left, on stderr, in the main rank."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=ranks.rank != 0)
    tasks: dict[str, TaskID] = {}
    with contextlib.ExitStack() as stack:

        def report(what: str, done: int, total: int) -> None:
            if not tasks:  # before the first batch stderr is for errors alone
                stack.enter_context(bar)
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
