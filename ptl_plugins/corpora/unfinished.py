"""Work on a corpus that was cut short: what of it is kept, and what its sources were.

`asked.json` in the folder of the work tells seed, rows and the origin of every source.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins import durable
from ptl_plugins.corpora.catalogue import Source
from ptl_plugins.corpora.origins import is_local, is_same, newest_commit
from ptl_plugins.corpora.shuffle import chunks_of
from ptl_plugins.errors import PTLError
from ptl_plugins.state_file import intact, read_state

if TYPE_CHECKING:
    from ptl_plugins.corpora.prepare import CorpusRequest

ASKED = "asked.json"


def other_sources(before: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return the sources that are not those of earlier work."""
    kept = before.get("sources", {})
    return [name for name, now in asked["sources"].items() if not is_same(kept.get(name), now)]


def same_work(
    request: CorpusRequest, asked: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Keep the chunks of an earlier try, and return what the work depends on from now on.

    How many rows are wanted may change, as chunks hold all. A source that is read from the hub no
    more, or from there now, begins anew.

    Raises:
        PTLError: they are of another seed, or files have changed since they were read.
    """
    path = request.work / ASKED
    durable.remove_leftovers(request.work)
    before = _asked_before(path) if path.exists() else asked
    if before["seed"] != request.seed:
        raise PTLError(
            f"data: {request.work} holds unfinished work with seed {before['seed']}; go on with "
            "that seed, or remove it"
        )
    others = other_sources(before, asked)
    for name in others:
        _require_unchanged(request, name, before["sources"].get(name), asked["sources"][name])
    for name in others:
        _begin_anew(request, name, say)
    kept = {name: before["sources"][name] for name in asked["sources"] if name not in others}
    work = {**asked, "sources": {**asked["sources"], **kept}}
    durable.write_json(path, work)
    return work


def _asked_before(path: Path) -> dict[str, Any]:
    remedy = f"remove {path.parent} to begin anew"
    with intact(path, remedy):
        before = read_state(path, remedy)
        before["seed"], before["sources"]
    return before


def _read_of(request: CorpusRequest, name: str) -> list[Path]:
    """Return the files that hold what was read of a source."""
    done = request.work / f"{name}.done"
    return [*chunks_of(request.work, name), *([done] if done.exists() else [])]


def _require_unchanged(
    request: CorpusRequest, name: str, before: object, now: dict[str, Any]
) -> None:
    if is_local(before) and is_local(now) and _read_of(request, name):
        files = ", ".join(file["name"] for file in now["files"])
        raise PTLError(
            f"data: --source {name}={request.local[name]}: {files}: not the bytes that the "
            f"unfinished work was read from; give the files as they were, or remove "
            f"{request.work / name}* to read them anew"
        )


def _begin_anew(request: CorpusRequest, name: str, say: Callable[[str], None]) -> None:
    say(f"{name}: is read from elsewhere now, from its first row")
    for file in _read_of(request, name):
        file.unlink()
    for shards in request.work.glob("shards-*"):
        shutil.rmtree(shards)


def pinned(request: CorpusRequest, work: dict[str, Any], name: str, source: Source) -> Source:
    """Return the source at the commit that the work began with; the first time the hub tells it."""
    origin = work["sources"][name]
    if is_local(origin):
        return source
    if "commit" not in origin:
        origin["commit"] = newest_commit(name, source)
        durable.write_json(request.work / ASKED, work)
    return replace(source, revision=origin["commit"])
