"""The files of this machine that a Python program needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SYSTEM_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
LOADER_CACHE, NULL = Path("/etc/ld.so.cache"), Path("/dev/null")


def python_files(python: Path, prefix: Path) -> Iterator[Path]:
    """Yield existing folders and files, links too, nothing that lies below another of them.

    Args:
        python: the interpreter, with no link in its path.
        prefix: where its standard library lies (`sys.base_prefix`).
    """
    wanted = [*map(Path, SYSTEM_LIBRARIES), prefix / "lib", prefix / "lib64"]
    chosen: list[Path] = []
    for path in [*wanted, LOADER_CACHE, NULL, python]:
        if path.exists() and not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
            yield path
