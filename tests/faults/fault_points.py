"""Faults at a chosen operation on the files below a folder: a kill, a full disk, a wrong clock.

Standard library alone: `inject/sitecustomize.py` loads it into programs that are started whole,
`run_starter.py` into forks. The variable PTL_FAULT holds one JSON object:

    folder   below which files are watched
    kind     a key of KINDS; without one, operations are only counted
    at       the number of the operation at which it happens, from 1
    trace    a file that gets the name of every operation, one a line
    program  a word of the command line that the fault is for; the other programs are left alone
    rank     of torchrun's workers, the one that the fault is for
"""

# ruff: noqa: PTH110, PTH115, PTH118, PTH119, PTH120, PTH202
# what pathlib calls is what is replaced here
from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import io
import json
import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

VARIABLE = "PTL_FAULT"
DAY = 86_400.0
BALLAST = []
SPARE_BYTES = 2**20
"""What a process may still take once its memory is at its end."""
DEFINED = {
    name: getattr(os, name)
    for name in (
        "replace",
        "rename",
        "mkdir",
        "unlink",
        "remove",
        "rmdir",
        "fsync",
        "write",
        "open",
    )
}
OPEN = io.open
CHANGES = ("replace", "rename", "mkdir", "unlink", "remove", "rmdir")
NEEDS_ROOM = ("create", "write", "fsync", "mkdir", "replace", "rename", "save")


class Watch:
    """Counts the operations of one process, and lets the fault happen at its time."""

    def __init__(self, order):
        self.folder = os.path.realpath(order["folder"])
        self.kind, self.at = order.get("kind"), order.get("at", 0)
        self.trace, self.count = order.get("trace"), 0

    def passing(self, operation, path, half=lambda: None):
        """Note an operation; `half` does half of it, which is what a kill in its midst leaves."""
        where = self.short(path)
        if where is None:
            return
        self.count += 1
        if self.trace:
            self._note(f"{operation} {where}")
        if self.kind and self.count >= self.at > 0:
            KINDS[self.kind](operation, path, half, first=self.count == self.at)

    def short(self, path):
        """Return a path below the folder without what differs from run to run, or None."""
        if isinstance(path, int):
            path = f"/proc/self/fd/{path}"
        path = os.fsdecode(path)
        place = os.path.realpath(path if path.startswith("/proc") else os.path.dirname(path) or ".")
        if not path.startswith("/proc"):
            place = os.path.join(place, os.path.basename(path))
        if not place.startswith(self.folder + os.sep):
            return None
        return re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]+", "", place[len(self.folder) + 1 :])

    def _note(self, line):
        target = DEFINED["open"](self.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        DEFINED["write"](target, f"{line}\n".encode())
        os.close(target)


def kill(operation, path, half, first):
    half()
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(operation, path, half, first):
    if first:
        os.kill(os.getpid(), signal.SIGTERM)


def full_disk(operation, path, half, first):
    """From now on there is no room; what is there can be deleted."""
    if operation in NEEDS_ROOM:
        if first:
            half()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _named(path))


def read_only(operation, path, half, first):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), _named(path))


def forbidden(operation, path, half, first):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), _named(path))


def clock_back(operation, path, half, first):
    """From now on it is yesterday."""
    if first:
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() - DAY
        time.time_ns = lambda: now_ns() - int(DAY * 1e9)


def no_memory(operation, path, half, first):
    """From now on the process gets no more memory."""
    if first:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for size in (2**20, 2**16, 2**12, 2**9):  # what it was given and does not use
            with contextlib.suppress(MemoryError):
                while True:
                    BALLAST.append(bytearray(size))
        del BALLAST[-200:]  # some for the error itself


KINDS = {
    function.__name__: function
    for function in (kill, terminate, full_disk, read_only, forbidden, clock_back, no_memory)
}


def _named(path):
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)


class WatchedFile(io.FileIO):
    """A file that is written to; what a buffer hands over is one operation."""

    def write(self, data):
        view = memoryview(data).cast("B")
        write = super().write
        WATCH[0].passing("write", self.fileno(), lambda: write(view[: len(view) // 2]))
        return write(data)


def watched_open(
    file,
    mode="r",
    buffering=-1,
    encoding=None,
    errors=None,
    newline=None,
    closefd=True,
    opener=None,
):
    """Open a file; one below the folder that is written to is watched."""
    writes = set(mode) & set("wax+")
    if not writes or isinstance(file, int) or WATCH[0].short(file) is None:
        return OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if not os.path.exists(file):
        WATCH[0].passing("create", file)
    raw = WatchedFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)


def changing(name):
    """Wrap a call that changes a folder; one that would fail anyway is no operation."""
    real = DEFINED[name]

    @functools.wraps(real)
    def wrapper(path, *args, **keys):
        full = path
        if keys.get("dir_fd") is not None:
            full = os.path.join(_named(keys["dir_fd"]), os.fsdecode(path))
        if os.path.lexists(full) != (name == "mkdir"):
            WATCH[0].passing(name, full)
        return real(path, *args, **keys)

    return wrapper


def watched_fsync(descriptor):
    WATCH[0].passing("fsync", descriptor)
    return DEFINED["fsync"](descriptor)


def watched_write(descriptor, data):
    view = memoryview(data).cast("B")
    WATCH[0].passing(
        "write", descriptor, lambda: DEFINED["write"](descriptor, view[: len(view) // 2])
    )
    return DEFINED["write"](descriptor, data)


def watched_os_open(path, flags, *args, **keys):
    if flags & os.O_CREAT and keys.get("dir_fd") is None and not os.path.exists(path):
        WATCH[0].passing("create", path)
    return DEFINED["open"](path, flags, *args, **keys)


def saving(module):
    """Wrap what writes safetensors files, which is no Python: half a file, or the disk's error."""
    real = module.serialize_file

    @functools.wraps(real)
    def wrapper(tensors, path, *args, **keys):
        def half():
            real(tensors, path, *args, **keys)
            os.truncate(path, os.path.getsize(path) // 2)

        try:
            WATCH[0].passing("save", path, half)
        except OSError as error:
            from safetensors import SafetensorError

            raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
        return real(tensors, path, *args, **keys)

    module.serialize_file = wrapper


WATCH = []


def install():
    """Watch this process, if PTL_FAULT is for it."""
    order = json.loads(os.environ.get(VARIABLE) or "null")
    words = " ".join([*sys.orig_argv, *getattr(sys, "argv", [])])  # of a fork, its own are in argv
    if order is None or order.get("program", "") not in words:
        return
    if "rank" in order and os.environ.get("RANK") != str(order["rank"]):
        return
    WATCH.append(Watch(order))
    for name in CHANGES:
        setattr(os, name, changing(name))
    os.fsync, os.write, os.open = watched_fsync, watched_write, watched_os_open
    io.open = builtins.open = watched_open
    for name in ("safetensors.torch", "safetensors.numpy"):
        if name in sys.modules:
            saving(sys.modules[name])
