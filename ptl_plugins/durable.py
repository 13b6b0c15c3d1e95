"""Writes that a crash cannot tear: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".ptl-tmp"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    temporary.write_text(text, encoding="utf-8")
    replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; plain lists take one line each."""
    write_text(path, _indented(value, "\n") + "\n")


def _indented(value: Any, line: str) -> str:
    """Return JSON; `line` is what ends a line and indents the next.

    json's own indent gives every number of a list a line, and leaves its fast encoder.
    """
    inner = line + " "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(str(k))}: {_indented(value[k], inner)}" for k in sorted(value)]
        return f"{{{inner}{f',{inner}'.join(rows)}{line}}}"
    if isinstance(value, list | tuple) and any(isinstance(v, dict | list | tuple) for v in value):
        return f"[{inner}{f',{inner}'.join(_indented(v, inner) for v in value)}{line}]"
    return json.dumps(value)


def replace(temporary: Path, path: Path) -> None:
    """Bring a written file or folder under its final name, once it is on the disk."""
    for file in _files(temporary):
        _sync(file)
    temporary.replace(path)
    _sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the body succeeds.

    A `path` that is there already is replaced; a failed body leaves it as it was.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    replace(temporary, path)


def copy_files(source: Path, target: Path) -> None:
    """Copy every file of `source` into the existing folder `target`, each atomically.

    `config.json` comes last: where it is, the weights are.
    """
    for file in sorted(source.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
        if file.is_file():
            temporary = target / (file.name + TEMPORARY_SUFFIX)
            shutil.copyfile(file, temporary)
            replace(temporary, target / file.name)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run left under temporary names, at any depth."""
    for path in sorted(folder.rglob("*" + TEMPORARY_SUFFIX)):
        # one inside another is gone already
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def digest_of_files(folder: Path, pattern: str) -> str:
    """Return the SHA-256 over names and contents of the matching files, in order of name."""
    total = hashlib.sha256()
    for file in sorted(folder.glob(pattern)):
        with file.open("rb") as stream:
            total.update(
                f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
