"""The rows of a source as a stream: of the hub, or of local files."""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.corpora.catalogue import Source
from ptl_plugins.errors import PTLError
from ptl_plugins.given_path import given_path
from ptl_plugins.text_data import PLACE, SUFFIXES, read_rows


def local_files(name: str, path: str) -> tuple[Path, ...]:
    """Return the files that `path` means: a file, a folder's, or those of a pattern with `*`.

    Raises:
        PTLError: there are none, or they are of several kinds or of one that is not read.
    """
    place, allowed = given_path(path), ", ".join(SUFFIXES)
    if place.is_dir():
        files = [file for file in place.iterdir() if file.suffix in SUFFIXES]
    else:
        files = [Path(file) for file in glob.glob(str(place))] if "*" in path else [place]  # noqa: PTH207
    kinds = sorted({file.suffix for file in files})
    if not files or not all(file.is_file() for file in files):
        raise PTLError(f"data: --source {name}={path}: no such file; give one of {allowed}")
    if len(kinds) > 1 or kinds[0] not in SUFFIXES:
        raise PTLError(
            f"data: --source {name}={path}: holds {', '.join(kinds)}; one kind of {allowed} is "
            "needed (a pattern such as 'folder/train-*.parquet' chooses files)"
        )
    return tuple(sorted(files))


def source_rows(
    name: str, source: Source, files: tuple[Path, ...], *, first: int
) -> Iterator[dict[str, str]]:
    """Yield the source's rows from the number `first` on, as they are written.

    Args:
        name: of the source, for messages.
        source: the data set and its columns.
        files: the local copy; empty, the hub is read.
        first: counts from 0; rows before it are passed over.

    Raises:
        PTLError: it cannot be read, or lacks a column.
    """
    number = first
    where = f"source '{name}'"
    try:
        rows = _local(files, first) if files else _hub(source, first)
        for row in itertools.islice(rows, _left(source, first)):
            number += 1
            yield _written(where, row, source.columns)
    except PTLError:
        raise
    except Exception as error:  # every failure of `datasets` means the same to the user
        raise unreadable(name, source, number, error, at_hub=not files) from error


def _left(source: Source, first: int) -> int | None:
    return None if source.limit is None else max(source.limit - first, 0)


def _local(files: tuple[Path, ...], first: int) -> Iterable[Mapping[str, Any]]:
    if files[0].suffix == ".parquet":
        names = [str(file) for file in files]
        return _stream(first, "parquet", data_files=names, split="train")
    rows = itertools.chain.from_iterable(read_rows(str(file)) for file in files)
    return itertools.islice(rows, first, None)


def _hub(source: Source, first: int) -> Iterable[Mapping[str, Any]]:
    chosen = {"data_dir": source.folder, "revision": source.revision}
    options = {key: value for key, value in chosen.items() if value is not None}
    return _stream(first, source.repository, source.config, split=source.split, **options)


def _stream(first: int, *names: str | None, **options: Any) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    rows: Iterable[Mapping[str, Any]] = load_dataset(*names, streaming=True, **options).skip(first)
    return rows


def _written(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return what is written of a row; all is empty where all that it is made of is."""
    places = [place for template in columns.values() for place in re.findall(PLACE, template)]
    for place in places:
        if place not in row:
            raise PTLError(f"{where}: has no column '{place}'; it has {', '.join(row)}")
    plain = {place: _plain(row[place]) for place in places}
    if not any(text.strip() for text in plain.values()):
        return dict.fromkeys(columns, "")
    return {
        column: re.sub(PLACE, lambda found: plain[found[1]], template)
        for column, template in columns.items()
    }


def _plain(value: object) -> str:
    text = value or "" if value is None or isinstance(value, str) else _as_json(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no UTF-8


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def unreadable(
    name: str, source: Source, number: int, error: Exception, *, at_hub: bool
) -> PTLError:
    """Return the one line for a source that failed after `number` rows."""
    cause = error.__cause__ or error  # a "DatasetGenerationError" alone says nothing
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    remedy = "mend the file"
    if at_hub:
        remedy = f"the same command goes on, or give a local copy: --source {name}=PATH"
    place = f"'{source.repository}'" if at_hub else "its local copy"
    return PTLError(
        f"source '{name}': {place} cannot be read after row {number} ({reason}); {remedy}"
    )
