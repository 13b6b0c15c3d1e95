"""A shuffle on the disk: rows are sorted by a random key that seed, source and row number give.

Rows are sorted in memory a chunk at a time, chunks are merged as streams. Memory is that of one
chunk and one row of every other, whatever the number of rows. The order is the same however often
the work was cut short, wherever a chunk ends, and wherever the rows were read from.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ptl_plugins import durable

KEY_BYTES = 12
"""Two of a billion rows share a key with a chance of one in 10^11; then the text decides."""
SHARD = "part-{:05d}.jsonl"


def sort_into_chunks(
    rows: Iterator[Mapping[str, str]],
    folder: Path,
    *,
    source: str,
    seed: int,
    first: int,
    chunk_bytes: int,
) -> Iterator[int]:
    """Write `SOURCE-FIRST-END.rows` files, and yield the number of the next row after each.

    Args:
        rows: from the number `first` on; a row that is empty takes a number and is left out.
        folder: where the chunks go; each appears whole or not at all.
        source: the name of the rows' source.
        seed: of the order.
        first: counts from 0.
        chunk_bytes: of text, in one chunk.
    """
    number = first
    while chunk := _chunk(rows, number, source, seed, chunk_bytes):
        lines, end = chunk
        lines.sort()
        _write(folder / f"{source}-{number:012d}-{end:012d}.rows", lines)
        del chunk, lines  # before the next one is read
        yield end
        number = end


def _chunk(
    rows: Iterator[Mapping[str, str]], first: int, source: str, seed: int, most: int
) -> tuple[list[str], int] | None:
    lines: list[str] = []
    size, number = 0, first
    for number, row in enumerate(rows, start=first + 1):
        if any(text.strip() for text in row.values()):
            lines.append(f"{_key(seed, source, number - 1)}{json.dumps(row, ensure_ascii=False)}\n")
            size += len(lines[-1])
        if size >= most:
            break
    return (lines, number) if number > first else None


def _key(seed: int, source: str, number: int) -> str:
    text = f"{seed}:{source}:{number}".encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES).hexdigest()


def chunks_of(folder: Path, source: str) -> list[Path]:
    """Return the chunks of a source that are there, in order."""
    return sorted(folder.glob(f"{source}-*.rows"))


def end_of(chunk: Path) -> int:
    """Return the number of the row after a chunk's last."""
    return int(chunk.stem.rpartition("-")[2])


def count_lines(chunk: Path) -> int:
    """Return how many rows a chunk holds; a last one that was torn is none."""
    with chunk.open("rb") as stream:
        return sum(line.endswith(b"\n") for line in stream)


def write_shards(chunks: list[Path], folder: Path, *, rows: int, shard_rows: int) -> Iterator[int]:
    """Merge the chunks into `part-NNNNN.jsonl` files, and yield the number of rows written so far.

    Shards that are there are passed over, but for those that hold another number of rows.
    """
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(chunk.open(encoding="utf-8")) for chunk in chunks]
        lines = itertools.islice(heapq.merge(*streams), rows)
        for index in range(-(-rows // shard_rows)):
            own = itertools.islice(lines, shard_rows)
            path = folder / SHARD.format(index)
            if path.exists() and count_lines(path) == min(shard_rows, rows - index * shard_rows):
                for _ in own:
                    pass
            else:
                _write(path, (line[2 * KEY_BYTES :] for line in own))
            yield min((index + 1) * shard_rows, rows)


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines to `path`, whole or not at all, without a copy of them all."""
    temporary = path.with_name(path.name + durable.TEMPORARY_SUFFIX)
    with temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(lines)
    durable.replace(temporary, path)
