"""Writes that a crash cannot tear: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_plugins.disk_errors import named

TEMPORARY_SUFFIX = ".ptl-tmp"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with named(path):
            temporary.write_text(text, encoding="utf-8")
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a disk that cannot be written to, it stays
            temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; plain lists take one line each."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return what `write_json` writes, ASCII."""
    return _indented(value, "\n") + "\n"


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


def sync_files(folder: Path) -> None:
    """Wait until every file below `folder`, which another program wrote, is on the disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_file() or path.is_dir():
            _sync(path)


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
        for file in _files(temporary):  # before what is there goes
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


@contextlib.contextmanager
def claimed_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder of this call alone that becomes `path`, which must not be there.

    What killed processes of this machine left of `path` goes first. A failed body leaves nothing,
    not even the parents that were made.

    Raises:
        FileExistsError: `path` came into being meanwhile; it is left alone.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f"{_own_prefix(path)}{os.getpid()}-{secrets.token_hex(3)}")
    temporary = temporary.with_name(temporary.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_of_the_dead(path)
        temporary.mkdir()
        yield temporary
        _place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # others may use it by now
                parent.rmdir()
        raise


def _own_prefix(path: Path) -> str:
    """Return how names of temporary folders for `path` begin: a pid means this machine's."""
    return f"{path.name}.{zlib.crc32(socket.gethostname().encode()):08x}-"


def release_dead_claim(path: Path) -> None:
    """Remove the empty folder `path` where a killed process had got no further than its name."""
    if path.is_dir() and not any(path.iterdir()) and any(_left_by_the_dead(path)):
        path.rmdir()


def _remove_of_the_dead(path: Path) -> None:
    for folder in _left_by_the_dead(path):
        shutil.rmtree(folder, ignore_errors=True)


def _left_by_the_dead(path: Path) -> Iterator[Path]:
    start = _own_prefix(path)
    for folder in path.parent.iterdir():
        if folder.name.startswith(start) and folder.name.endswith(TEMPORARY_SUFFIX):
            pid = folder.name[len(start) :].partition("-")[0]
            if pid.isdecimal() and not _is_alive(int(pid)):
                yield folder


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _place(temporary: Path, path: Path) -> None:
    """Rename a written folder; the name is claimed first, as a rename would replace a folder."""
    for file in _files(temporary):
        _sync(file)
    path.mkdir()
    try:
        temporary.rename(path)
        _sync(path.parent)
    except BaseException:
        moved = not temporary.exists()  # renamed, but who knows whether on the disk
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if moved else path.rmdir()
        raise


def copy_files(source: Path, target: Path) -> None:
    """Copy every file of `source` into the existing folder `target`, each atomically.

    `config.json` comes last: where it is, the weights are.
    """
    for file in sorted(source.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
        if file.is_file():
            temporary = target / (file.name + TEMPORARY_SUFFIX)
            try:
                shutil.copyfile(file, temporary)
                replace(temporary, target / file.name)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise


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
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
