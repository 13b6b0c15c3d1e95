"""What a disk refuses, in one line: it is full, or may not be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.errors import PTLError

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make it writable, or choose another place",
    errno.EACCES: "make it accessible, or choose another place",
    errno.EPERM: "make it accessible, or choose another place",
    errno.EIO: "see to the disk",
}
"""Error number -> what the user can do."""
SAFETENSORS = re.compile(r"\(os error (\d+)\)|code: (\d+)")
"""How safetensors, which is no Python, tells an error number."""


class DiskError(PTLError):
    """A file or folder cannot be written or read; the same command goes on once that is mended."""


def disk_error(error: BaseException) -> DiskError | None:
    """Return the line for an error of the disk that the user can mend, or None."""
    number, name = _facts(error)
    if number not in REMEDIES:
        return None
    where = f"{name}: " if name else "a file "
    return DiskError(
        f"{where}cannot be written or read ({os.strerror(number)}); {REMEDIES[number]}, then the "
        "same command goes on"
    )


def _facts(error: BaseException) -> tuple[int, str]:
    """Return the error number, 0 where there is none, and the file's name, if it is known."""
    if isinstance(error, OSError):
        return error.errno or 0, os.fspath(error.filename) if error.filename else ""
    if type(error).__name__ == "SafetensorError" and (found := SAFETENSORS.search(str(error))):
        return int(found[1] or found[2]), ""
    return 0, ""


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an error of the disk the name of the file, which a failed write does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
