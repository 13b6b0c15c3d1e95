"""The run folder: manifest, events, one folder per round; resume reads what is there."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ptl_plugins.disk_errors import named
from ptl_plugins.dotted_keys import dotted
from ptl_plugins.durable import remove_leftovers, write_json
from ptl_plugins.errors import RunFolderError
from ptl_plugins.secret_values import redacted_tree
from ptl_plugins.stage_types import StageTime
from ptl_plugins.state_file import intact, read_state
from ptl_plugins.types import Cut, EvalResult, PrunePlan, Recipe, RoundRecord

if TYPE_CHECKING:
    import filelock

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
CORPUS = "corpus.json"
RECORD = "record.json"
PLAN = "plan.json"
SCORES = "scores.safetensors"
MODEL = "model"
MANIFEST_REMEDY = "delete it, and see that the recipe is the same as before"
ORIGINAL_REMEDY = "bring it back, or delete it: what was measured of the original is then lost"
RECORD_REMEDY = "delete it: its round is then recorded again, from what lies beside it"

logger = logging.getLogger(__name__)


class RunFolder:
    """Paths and durable state of one run. Only the main rank may write."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self._lock: filelock.FileLock | None = None

    def round_folder(self, index: int) -> Path:
        """Return `round_NN`; round 0 is the original."""
        return self.path / f"round_{index:02d}"

    def open(self, recipe: Recipe, manifest: Mapping[str, Any]) -> None:
        """Take the folder for this recipe: lock it, check or write the manifest.

        Called when everything that can be checked is, right before the first step.

        Raises:
            RunFolderError: a living run holds it, or it belongs to another recipe.
        """
        self.check(recipe)
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        from ptl_plugins import run_lock

        self._lock = run_lock.lock_folder(self.path)
        remove_leftovers(self.path)
        if not self.records() or not (self.path / MANIFEST).exists():
            # the recipe's keys are compared by the next try, and hold no secrets
            facts = {**redacted_tree(manifest), "recipe": recipe_keys(recipe)}
            write_json(self.path / MANIFEST, facts)
        self._tell_damaged()
        self.event("opened", finished_rounds=self.num_finished())

    def _tell_damaged(self) -> None:
        """Log what is damaged and needed by no step any more."""
        from ptl_plugins.damaged_files import damaged_files

        finished = self.num_finished()
        for index in range(finished + 2):
            folder = self.round_folder(index)
            for path in damaged_files(folder, is_finished=index <= finished):
                logger.warning(
                    "PTL: %s: is damaged; the run goes on without it, bring it back for reports",
                    path,
                )

    def close(self) -> None:
        """Give the folder's lock back; the end of the process does so too."""
        if self._lock is not None:
            self._lock.release()

    def check(self, recipe: Recipe) -> None:
        """Compare the recipe with that of the rounds which are recorded; write nothing.

        Raises:
            RunFolderError: they differ; the differing keys are named.
        """
        path = self.path / MANIFEST
        if not path.exists() or not self.records():
            return  # nothing was done yet that another recipe could spoil
        with intact(path, MANIFEST_REMEDY):
            kept = dict(read_state(path, MANIFEST_REMEDY)["recipe"])
        if kept.get("distill"):
            kept["distill"].pop("device", None)  # kept by runs before it was free to change
        kept.get("evaluation", {}).setdefault("original", True)  # which all runs measured once
        before = dict(dotted({**LATER_KEYS, **kept}))
        now = dict(dotted(recipe_keys(recipe)))
        keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if keys:
            changes = ", ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in keys[:5])
            raise RunFolderError(
                f"{self.path}: holds a run of another recipe ({changes}); "
                "give the old recipe, or choose another folder"
            )

    def require_corpus(self, digest: str) -> None:
        """Keep the corpus's digest, or compare it with that of the recorded rounds.

        Raises:
            RunFolderError: the recorded rounds were trained on another corpus.
        """
        path = self.path / CORPUS
        if path.exists() and self.records():
            remedy = "delete it, and see that the corpus is the same as before"
            before = read_state(path, remedy).get("digest")
            if before != digest:
                raise RunFolderError(
                    f"{self.path}: the corpus is not the one that the finished rounds were trained "
                    "on; bring it back, or choose another folder"
                )
        else:
            self.write(path, {"digest": digest})

    def num_finished(self) -> int:
        """Return how many rounds are complete, the original not counted."""
        number = 0
        while (self.round_folder(number + 1) / RECORD).exists():
            number += 1
        return number

    def last_model(self) -> Path | None:
        """Return the checkpoint of the last finished round, or None before the first."""
        number = self.num_finished()
        return self.round_folder(number) / MODEL if number else None

    def write(self, path: Path, value: Any) -> None:
        """Write JSON below the run folder, in the main rank only."""
        if self.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, redacted_tree(value))

    def finish_round(self, record: RoundRecord) -> None:
        """Write `record.json`, which makes the round complete."""
        self.write(self.round_folder(record.round) / RECORD, dataclasses.asdict(record))
        self.event("round_finished", round=record.round)

    def records(self) -> tuple[RoundRecord, ...]:
        """Return the records of the original and all finished rounds."""
        paths = (self.round_folder(i) / RECORD for i in range(self.num_finished() + 1))
        return tuple(read_record(path) for path in paths if path.exists())

    def event(self, name: str, **facts: Any) -> None:
        """Append one line to `events.jsonl`, in the main rank only."""
        if self.writes:
            line = json.dumps({"time": time.time(), "event": name, **redacted_tree(facts)})
            path = self.path / EVENTS
            with named(path), path.open("ab+") as stream:
                stream.write(_line_break(stream) + line.encode() + b"\n")


def _line_break(stream: BinaryIO) -> bytes:
    """Return what ends the line that a killed run left unfinished, or nothing."""
    if stream.seek(0, os.SEEK_END) == 0:
        return b""
    stream.seek(-1, os.SEEK_END)
    return b"" if stream.read(1) == b"\n" else b"\n"


LATER_KEYS = {"distill": None, "tokens": "equal", "learning_rate_schedule": "round"}
"""Keys that came after the first run folders, and what those runs did."""


def recipe_keys(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as plain values, as far as it decides any weight.

    Where the recipe was read from, where it runs, how long it may take, what it keeps and what is
    done when a training diverges may change between the tries of one run; the number of processes
    shares out the batch and may not.
    """
    keys = dataclasses.asdict(recipe)
    for place in ("source", "run_folder", "text", "keep", "health", "on_divergence"):
        del keys[place]
    written = keys.pop("written_rounds")
    keys["rounds"] = written or keys["rounds"]
    for spec in keys["rounds"]:  # what the file says is no step of another round
        del spec["step_of"]
    if keys["distill"]:
        del keys["distill"]["device"]  # where it runs
    for stage in keys["stages"]:
        stage["launch"] = {"processes": stage["launch"]["processes"]}
        if stage["rounds"] is None:  # as before stages could be of some rounds alone
            del stage["rounds"]
    return json.loads(json.dumps(keys, default=str))  # type: ignore[no-any-return]


def write_plan(run: RunFolder, folder: Path, plan: PrunePlan) -> None:
    """Write `plan.json`."""
    run.write(folder / PLAN, dataclasses.asdict(plan))


def read_plan(folder: Path) -> PrunePlan | None:
    """Return the plan of a round that was already selected, or None; a torn one is made again."""
    if not (folder / PLAN).exists():
        return None
    try:
        with intact(folder / PLAN, "it is made again"):
            keys = read_state(folder / PLAN, "it is made again")
            keys["removed_neurons"] = tuple(tuple(row) for row in keys["removed_neurons"])
            keys["removed_layers"] = tuple(keys["removed_layers"])
            return PrunePlan(**keys)
    except RunFolderError as error:
        logger.warning("PTL: %s", error)
        return None


def read_record(path: Path) -> RoundRecord:
    """Read a `record.json`.

    Raises:
        RunFolderError: it is damaged.
    """
    remedy = ORIGINAL_REMEDY if path.parent.name == "round_00" else RECORD_REMEDY
    with intact(path, remedy):
        keys = read_state(path, remedy)
        keys["cuts"] = tuple(Cut(**cut) for cut in keys["cuts"])
        for name in ("pruned", "recovered"):
            keys[name] = EvalResult(**keys[name]) if keys[name] else None
        keys["stages"] = tuple(StageTime(**stage) for stage in keys.get("stages", ()))
        return RoundRecord(**keys)
