"""`ptl data`: the corpora that the shipped recipes name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptl_plugins.errors import PTLError


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(data)


def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A corpus: ptl ls corpora.")],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Gets NAME/ and a dataset_info.json.")
    ],
    sources: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="NAME=PATH",
            help="A local copy of one source: a json, jsonl, parquet or txt file, a folder of "
            "them, or a pattern with *.",
        ),
    ] = [],  # noqa: B006  # typer copies it
    rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The first N in shuffled order.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle.")] = 42,
) -> None:
    """Merge, shuffle and write a corpus, from the hub or local files; goes on where it stopped."""
    from ptl_plugins.corpora.prepare import CorpusRequest, prepare_corpus

    if out.exists() and not out.is_dir():
        raise PTLError(f"data: --out {out}: is a file; give a folder")
    request = CorpusRequest(name=name, out=out, local=_pairs(sources), rows=rows, seed=seed)
    try:
        prepare_corpus(request, typer.echo)
    except OSError as error:  # no right to write there, a full disk
        where = error.filename or out
        raise PTLError(
            f"data: {where}: {error.strerror}; mend that, and the same command goes on"
        ) from error


def _pairs(words: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise PTLError(f"data: --source {word}: is not NAME=PATH, such as numina=numina.jsonl")
        if name in pairs:
            raise PTLError(f"data: --source {word}: '{name}' is given twice; give it once")
        pairs[name] = path
    return pairs
