"""Writes a corpus: chunks first, then shards, each kept when the work is cut short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from ptl_plugins import durable
from ptl_plugins.corpora.catalogue import Corpus, Source, find_corpus
from ptl_plugins.corpora.origins import digest, origin_of
from ptl_plugins.corpora.rows import local_files, source_rows
from ptl_plugins.corpora.shuffle import (
    chunks_of,
    count_lines,
    end_of,
    sort_into_chunks,
    write_shards,
)
from ptl_plugins.corpora.unfinished import other_sources, pinned, same_work
from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.run_lock import lock_folder

CHUNK_BYTES = 128 * 2**20
"""Text that is sorted in memory at a time."""
SHARD_ROWS = 100_000
"""Rows of a file, as many as the released scripts train a round on."""
INFO = "dataset_info.json"
"""LLaMA-Factory's list of data sets."""
WORK_SUFFIX = ".unfinished"


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRequest:
    """What `ptl data` was asked for."""

    name: str
    out: Path
    """The folder that gets `NAME/`, `NAME.corpus` and an entry in `dataset_info.json`."""
    local: Mapping[str, str] = field(default_factory=dict)
    """Source -> a local copy, in place of the hub."""
    rows: int | None = None
    """How many are written, the first in shuffled order; unset, all."""
    seed: int = 42
    chunk_bytes: int = CHUNK_BYTES
    shard_rows: int = SHARD_ROWS

    @property
    def folder(self) -> Path:
        """Return where the rows are put."""
        return self.out / self.name

    @property
    def note(self) -> Path:
        """Return the file that tells what a finished folder holds; it is no data file."""
        return self.out / f"{self.name}.corpus"

    @property
    def work(self) -> Path:
        """Return where the unfinished work lies."""
        return self.out / f".{self.name}{WORK_SUFFIX}"


def prepare_corpus(request: CorpusRequest, say: Callable[[str], None]) -> int:
    """Write the corpus, or what is missing of it, and return its number of rows.

    The same request gives the same bytes. A finished corpus is left as it is.

    Raises:
        PTLError: unknown names, files that are not there or cannot be read, too few rows, or
            a folder that holds something else.
    """
    corpus = find_corpus(request.name)
    files = _local_copies(request, corpus)
    asked = _asked(request, corpus, files)
    info = _read_info(request.out / INFO)
    if request.folder.exists():
        return _finished(request, asked, info, say)
    request.work.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(request.work)
    try:
        work = same_work(request, asked, say)
        counts = {
            name: _chunks(request, name, pinned(request, work, name, source), files, say)
            for name, source in corpus.sources.items()
        }
        rows = _merged(request, counts, say)
        facts = {"counts": counts, "written": rows, "sha256": digest(_shards(request))}
        durable.write_json(request.note, {**work, **facts})
        durable.replace(_shards(request), request.folder)
        _list(request, corpus)
        shutil.rmtree(request.work)
    finally:
        lock.release()
    say(f"{request.folder}: {rows:,} rows")
    return rows


def _local_copies(request: CorpusRequest, corpus: Corpus) -> dict[str, tuple[Path, ...]]:
    for name, path in request.local.items():
        if name not in corpus.sources:
            raise PTLError(
                f"data: --source {name}={path}: {request.name} has no source '{name}'"
                f"{did_you_mean(name, corpus.sources)}; it has {', '.join(corpus.sources)}"
            )
    return {name: local_files(name, path) for name, path in request.local.items()}


def _asked(
    request: CorpusRequest, corpus: Corpus, files: Mapping[str, tuple[Path, ...]]
) -> dict[str, Any]:
    """Return what the rows depend on, as plain values."""
    sources = {n: origin_of(source, files.get(n, ())) for n, source in corpus.sources.items()}
    return {"seed": request.seed, "sources": sources, "rows": request.rows}


def _finished(
    request: CorpusRequest, asked: dict[str, Any], info: dict[str, Any], say: Callable[[str], None]
) -> int:
    """Return the rows of a corpus that is there already.

    Raises:
        PTLError: it is of something else, or none of PTL's.
    """
    try:
        note = json.loads(request.note.read_text(encoding="utf-8"))
        written = int(note["written"])
    except (OSError, ValueError, KeyError, TypeError):
        raise PTLError(
            f"data: {request.folder} is there already, and no corpus that ptl data wrote; give "
            "another --out, or remove it"
        ) from None
    differs = [key for key in ("seed", "rows") if note.get(key) != asked[key]]
    differs += other_sources(note, asked)
    if differs:
        raise PTLError(
            f"data: {request.folder} was written with other {', '.join(differs)}; give another "
            "--out, or remove it"
        )
    _list(request, find_corpus(request.name))
    shutil.rmtree(request.work, ignore_errors=True)
    say(f"{request.folder}: {written:,} rows, written before")
    return written


def _chunks(
    request: CorpusRequest,
    name: str,
    source: Source,
    files: Mapping[str, tuple[Path, ...]],
    say: Callable[[str], None],
) -> int:
    """Read what is missing of a source, and return how many rows it has."""
    done = request.work / f"{name}.done"
    present = chunks_of(request.work, name)
    if done.exists():
        if (rows := _whole(done, present)) is not None:
            return rows
        say(f"{name}: what was read of it is damaged and is read again")
        for file in (done, *present):
            file.unlink()
        present = []
    first = end_of(present[-1]) if present else 0
    ends = sort_into_chunks(
        source_rows(name, source, files.get(name, ()), first=first),
        request.work,
        source=name,
        seed=request.seed,
        first=first,
        chunk_bytes=request.chunk_bytes,
    )
    for end in ends:
        say(f"{name}: {end:,} rows read")
    rows = sum(map(count_lines, chunks_of(request.work, name)))
    if source.expected not in (None, rows):
        say(f"{name}: has {rows:,} rows, and {source.expected:,} when this was written")
    durable.write_text(done, str(rows))
    return rows


def _whole(done: Path, chunks: Sequence[Path]) -> int | None:
    """Return the rows of a source that was read to its end; None: a file of it was torn since."""
    text = done.read_text(encoding="utf-8", errors="replace")
    rows = int(text) if text.isdecimal() else None
    return rows if rows == sum(map(count_lines, chunks)) else None


def _merged(request: CorpusRequest, counts: Mapping[str, int], say: Callable[[str], None]) -> int:
    """Write the shards that are missing, and return the rows of all.

    Raises:
        PTLError: there are no rows, or fewer than asked for.
    """
    present = sum(counts.values())
    rows = present if request.rows is None else request.rows
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if rows > present or not present:
        raise PTLError(
            f"data: --rows {rows}: the sources have {present:,} rows ({told}); ask for at most "
            "so many"
        )
    chunks = [chunk for name in counts for chunk in chunks_of(request.work, name)]
    folder = _shards(request)
    folder.mkdir(exist_ok=True)
    for number in write_shards(chunks, folder, rows=rows, shard_rows=request.shard_rows):
        say(f"{request.name}: {number:,} of {rows:,} rows written")
    return rows


def _shards(request: CorpusRequest) -> Path:
    """Return the folder of the shards, of a number of rows each its own."""
    return request.work / f"shards-{'all' if request.rows is None else request.rows}"


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PTLError(f"data: {path} is not JSON ({error}); mend or remove it") from None
    if not isinstance(info, dict):
        raise PTLError(f"data: {path} is no mapping of data sets; mend or remove it")
    return info


def _list(request: CorpusRequest, corpus: Corpus) -> None:
    """Give LLaMA-Factory an entry for the corpus; the others stay."""
    if not corpus.text:
        return
    path = request.out / INFO
    entry = {"file_name": request.name, "columns": {"prompt": "text"}}
    with filelock.FileLock(request.out / f".{INFO}.lock"):
        info = _read_info(path)
        if info.get(request.name) != entry:
            durable.write_json(path, {**info, request.name: entry})
