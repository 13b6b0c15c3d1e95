"""Keeps two runs out of one folder, and two writers from one file; the dead's locks are free."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from ptl_plugins.durable import write_json
from ptl_plugins.errors import RunFolderError

LOCK_FILE = ".lock"
OWNER_FILE = ".lock_owner.json"


def lock_folder(folder: Path) -> filelock.FileLock:
    """Take the folder's lock and note who holds it; the system frees it when the process ends.

    Raises:
        RunFolderError: a living process holds it; its pid and host are named.
    """
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _held(folder) from None
    write_json(folder / OWNER_FILE, {"pid": os.getpid(), "host": socket.gethostname()})
    return lock


def require_unlocked(folder: Path) -> None:
    """Refuse a folder that a living run works in; write nothing.

    Raises:
        RunFolderError: a living process holds its lock.
    """
    if (folder / LOCK_FILE).exists():
        lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise _held(folder) from None
        lock.release()


@contextlib.contextmanager
def sole_writer(file: Path) -> Iterator[None]:
    """Hold `file`, which is the lock of a command, alone; it is deleted at the end.

    Raises:
        RunFolderError: a living process holds it; its pid and host are named.
    """
    descriptor = _claim(file)
    try:
        os.ftruncate(descriptor, 0)
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        os.write(descriptor, json.dumps(owner).encode())
        yield
    finally:
        file.unlink(missing_ok=True)  # held still: nobody else takes this name for theirs
        os.close(descriptor)


def _claim(file: Path) -> int:
    """Return an open descriptor of the locked file that bears the name."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and file.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RunFolderError(
                f"{file.parent}: another process writes the same ({_owner(file)}); wait for it, "
                "stop it, or name another place"
            ) from None
        os.close(descriptor)  # its holder deleted it between the two calls


def _held(folder: Path) -> RunFolderError:
    return RunFolderError(
        f"{folder}: another run works in this folder ({_owner(folder / OWNER_FILE)}); wait for it, "
        "stop it, or choose another folder"
    )


def _owner(note: Path) -> str:
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))
        return f"pid {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # torn, or of another program
        return "its owner is not known"
