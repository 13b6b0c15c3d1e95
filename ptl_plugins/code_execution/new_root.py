"""A root folder of its own for a program: the parts that Python needs, read-only, and `/tmp`.

The new root is a folder below the mounts' own root, entered with chroot after the old root is
gone: the kernel then also refuses the program user namespaces, with which it could mount more.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ptl_plugins.code_execution.libc import CLONE_NEWNS, enter_root, mount, unshare
from ptl_plugins.code_execution.limits import Limits
from ptl_plugins.code_execution.python_files import python_files

READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE = 1, 2, 4, 32, 4096, 16384
PRIVATE = 1 << 18
KEPT_OPTIONS = {
    "nosuid": NO_SUID,
    "nodev": NO_DEVICES,
    "noexec": 8,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}
"""Options that must stay when a mount becomes read-only: a user namespace may not drop them."""

WORK = "/tmp"


def enter_new_root(folder: Path, *, python: Path, prefix: Path, limits: Limits, user: int) -> None:
    """Leave the machine's files for a new root, mounted on the empty `folder`; `/tmp` is writable.

    Args:
        folder: an empty folder that the process may mount on.
        python: the interpreter, with no link in its path.
        prefix: where its standard library lies (`sys.base_prefix`).
        limits: `disk` bounds `/tmp`, whose files live in memory.
        user: number of the user who owns `/tmp`.

    Raises:
        OSError: a mount is forbidden.
    """
    unshare(CLONE_NEWNS)
    mount("none", "/", "none", RECURSIVE | PRIVATE)
    mount("tmpfs", str(folder), "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    root = folder / "root"
    root.mkdir(mode=0o755)
    for path in python_files(python, prefix):
        _show(path, root)
    work = root / WORK[1:]
    work.mkdir(mode=0o755)
    size = f"size={limits.disk},nr_inodes={limits.num_files},mode=700,uid={user},gid={user}"
    mount("tmpfs", str(work), "tmpfs", NO_SUID | NO_DEVICES, size)
    mount("none", str(folder), "none", REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)
    enter_root(str(folder))
    os.chroot("/root")


def _show(path: Path, root: Path) -> None:
    """Make `path` visible under `root`: a link as the same link, the rest read-only."""
    place = root / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if path.is_symlink():
        place.symlink_to(path.readlink())
    else:
        _bind_read_only(path, place)


def _bind_read_only(path: Path, place: Path) -> None:
    if path.is_dir():
        place.mkdir(mode=0o755)
    else:
        place.touch(mode=0o644)
    mount(str(path), str(place), "none", BIND | RECURSIVE)
    for point, options in _mounts_below(place):
        kept = sum(KEPT_OPTIONS.get(option, 0) for option in options)
        mount("none", point, "none", REMOUNT | BIND | READ_ONLY | kept)


def _mounts_below(place: Path) -> list[tuple[str, list[str]]]:
    """Return the mount points at and below `place`, each with its options."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        columns = line.split()
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), columns[4])
        if Path(point).is_relative_to(place):
            found.append((point, columns[5].split(",")))
    return found
