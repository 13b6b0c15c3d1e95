"""Keeps two runs out of one folder; a dead process's lock frees itself."""

from __future__ import annotations

import json
import os
import socket
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


def _held(folder: Path) -> RunFolderError:
    return RunFolderError(
        f"{folder}: another run works in this folder ({_owner(folder)}); wait for it, stop it, "
        "or choose another folder"
    )


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f"pid {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # torn, or of another program
        return "its owner is not known"
