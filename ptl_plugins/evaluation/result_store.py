"""Results of questions on the disk: kept by model and task, and carried on after a kill.

A folder per (model, task): `about.json` says what was asked of what, `questions.jsonl` has a line
per question. It is written after every block of questions, so that a killed evaluation loses at
most one; the blocks are the same in every try, since a batch's composition decides roundings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptl_plugins.durable import json_text, write_text
from ptl_plugins.evaluation.values import EvaluationError, QuestionResult

CACHE_VARIABLE = "PTL_CACHE"
"""Environment variable that names the folder of what PTL keeps between commands."""
DEFAULT_CACHE = "~/.cache/ptl"
ABOUT = "about.json"
QUESTIONS = "questions.jsonl"


def cache_folder() -> Path:
    """Return where evaluations are kept."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser() / "evaluations"


class ResultStore:
    """The results of one model on one task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def questions(self) -> Path:
        """The file with a line per question."""
        return self.folder / QUESTIONS

    @contextmanager
    def opened(self, about: Mapping[str, Any]) -> Iterator[None]:
        """Hold the folder alone, and note what its results are of.

        Raises:
            EvaluationError: another process evaluates the same, or the folder cannot be made.
        """
        import filelock

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder.with_name(self.folder.name + ".lock"))
        try:
            with lock.acquire(timeout=0):
                with writing(self.folder / ABOUT):
                    write_text(self.folder / ABOUT, json_text(dict(about)))
                yield
        except filelock.Timeout:
            raise EvaluationError(
                f"{self.folder}: another process evaluates the same model on the same task; "
                "wait for it, or end it"
            ) from None

    def read(self) -> list[QuestionResult]:
        """Return what is there; a line that a kill tore, and what follows, is left out."""
        results: list[QuestionResult] = []
        if not self.questions.exists():
            return results
        for line in self.questions.read_text(encoding="utf-8").splitlines():
            try:
                results.append(QuestionResult(**json.loads(line)))
            except (ValueError, TypeError):
                break
        return results

    def write(self, results: Sequence[QuestionResult]) -> None:
        """Replace what is there."""
        write_results(self.questions, results)


def write_results(path: Path, results: Sequence[QuestionResult]) -> None:
    """Write a line per question, the whole file or nothing.

    Raises:
        EvaluationError: the disk is full, or the place cannot be written to.
    """
    text = "".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in results)
    with writing(path):
        write_text(path, text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); make room, or name another place "
            f"(--out for results, {CACHE_VARIABLE} in the environment for what is kept)"
        ) from error


def store_for(about: Mapping[str, Any]) -> ResultStore:
    """Return the store in the cache that belongs to a model and a task."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return ResultStore(cache_folder() / digest[:32])
