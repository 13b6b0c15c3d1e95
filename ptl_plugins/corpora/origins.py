"""What a source was read from: the digests of its files, or the hub's commit.

An origin is plain JSON, kept while the work is unfinished and in `NAME.corpus` afterwards:
`{"files": [{"name", "bytes", "sha256"}]}` or `{"repository", "commit"}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.corpora.catalogue import Source
from ptl_plugins.corpora.rows import unreadable

Origin = dict[str, Any]
BLOCK = 2**16


def origin_of(source: Source, files: Sequence[Path]) -> Origin:
    """Return the origin of a source, of the hub's without a commit: nothing is asked there.

    Args:
        source: the data set.
        files: the local copy; empty, the hub is read.
    """
    if files:
        return {"files": [_file(file) for file in files]}
    return {"repository": source.repository}


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256}


def is_same(before: object, now: Origin) -> bool:
    """Tell whether both have the same rows: files of the same bytes, or a repository.

    Which commit of it does not count: work that has begun goes on with its own.
    """
    if not isinstance(before, dict) or before.keys() - {"commit"} != now.keys():
        return False
    if "files" in now:
        return [f["sha256"] for f in before["files"]] == [f["sha256"] for f in now["files"]]
    return bool(before["repository"] == now["repository"])


def is_local(origin: object) -> bool:
    """Tell whether an origin is of files."""
    return isinstance(origin, dict) and "files" in origin


def newest_commit(name: str, source: Source) -> str:
    """Return the commit that the hub's data set is at now.

    Raises:
        PTLError: the hub cannot be asked, or has no such data set.
    """
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(source.repository, revision=source.revision).sha
    except Exception as error:  # no network, no right, no such data set: the same to the user
        raise unreadable(name, source, 0, error, at_hub=True) from error
    return str(commit)


def digest(folder: Path) -> str:
    """Return the SHA-256 of a corpus: the rows in order, wherever a shard ends."""
    total = hashlib.sha256()
    for shard in sorted(folder.glob("part-*.jsonl")):
        with shard.open("rb") as stream:
            while block := stream.read(BLOCK):
                total.update(block)
    return total.hexdigest()
