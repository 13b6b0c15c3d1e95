"""Refuses a checkpoint folder whose files are links to elsewhere.

Side files are carried over into every pruned checkpoint, so a link in a downloaded folder would
put a file of the reader's own, such as a key, into what is published.
"""

from __future__ import annotations

from pathlib import Path

from ptl_plugins.errors import PruneError

SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""Folders of a model in the hub's cache: a revision's files are links to the blobs beside it."""


def require_own_files(folder: Path) -> None:
    """Check that every link in `folder` stays in it, or in the hub's cache of the same model.

    Raises:
        PruneError: one leads elsewhere.
    """
    for path in sorted(folder.iterdir()):
        require_own_file(path)


def require_own_file(path: Path) -> None:
    """Check one file of a checkpoint's folder.

    Raises:
        PruneError: it is a link that leads elsewhere.
    """
    if not path.is_symlink():
        return
    home = path.parent.resolve()
    homes = [home]
    if home.parent.name == SNAPSHOTS:
        homes.append(home.parent.parent / BLOBS)
    if not any(_target(path).is_relative_to(home) for home in homes):
        raise PruneError(
            f"{path}: is a link out of the folder, to {path.readlink()}; put the file itself "
            "there, or give the folder that it is in"
        )


def _target(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a circle, which is in the folder, and read by nobody
        return path.parent.resolve()
