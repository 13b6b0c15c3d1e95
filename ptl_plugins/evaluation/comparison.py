"""One model, or two on the same questions of some benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.evaluation.asking import Examinee
from ptl_plugins.evaluation.examination import (
    Exam,
    Progress,
    about,
    examine,
    is_done,
    kept,
    model_digest,
    num_whole_blocks,
    prepared,
    require_fit,
)
from ptl_plugins.evaluation.examinee import (
    loaded_examinee,
    outlined_examinee,
    require_packages,
)
from ptl_plugins.evaluation.pairing import Pairing, pair
from ptl_plugins.evaluation.summary import TaskSummary, summarize
from ptl_plugins.evaluation.values import QuestionResult, Settings
from ptl_plugins.model_config import model_folder
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.registry import Registry


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What one model made of one task."""

    model: str
    summary: TaskSummary
    results: Sequence[QuestionResult]
    questions: Path
    """Where the questions' results are kept."""
    about: Mapping[str, Any]
    """What the results are of: digests, settings, versions."""
    num_kept: int
    """Questions that an earlier evaluation had asked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One task: the model's answers, and a baseline's where there is one."""

    task: str
    answers: Answers
    baseline: Answers | None
    pairings: tuple[Pairing, ...]
    """Per mark, where there is a baseline."""


def compare(
    model: str,
    baseline: str | None,
    tasks: Sequence[str],
    settings: Settings,
    registry: Registry,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> list[Compared]:
    """Ask a model, and a baseline if one is named, the questions of some tasks.

    What was asked of the same weights before is taken from the cache, unless `fresh`.

    Raises:
        PTLError: a package, a task's data or a model is missing, or cannot be used.
    """
    require_packages(settings.backend)
    models = [model, *([baseline] if baseline is not None else [])]
    folders = {name: model_folder(name) for name in models}
    with prepared(tasks, settings) as exams:
        for folder in folders.values():  # before hours are spent on one that another task stops
            outline = outlined_examinee(folder, registry, settings)
            for exam in exams:
                require_fit(exam, outline)
        asked = {
            name: _ask_model(name, folder, exams, registry, fresh=fresh, progress=progress)
            for name, folder in folders.items()
        }
    return [
        _compared(exam, asked[model][i], asked[baseline][i] if baseline is not None else None)
        for i, exam in enumerate(exams)
    ]


def _ask_model(
    name: str,
    folder: Path,
    exams: Sequence[Exam],
    registry: Registry,
    *,
    fresh: bool,
    progress: Progress | None,
) -> list[Answers]:
    digest = model_digest(folder)
    with contextlib.ExitStack() as stack:
        load = _once(stack, folder, registry, exams[0].settings)
        return [_ask(name, folder, digest, exam, load, fresh, progress) for exam in exams]


def _once(
    stack: contextlib.ExitStack, folder: Path, registry: Registry, settings: Settings
) -> Callable[[], Examinee]:
    """Return what loads the model when it is first needed, and then gives the same."""
    loaded: list[Examinee] = []

    def load() -> Examinee:
        if not loaded:
            loaded.append(stack.enter_context(loaded_examinee(folder, registry, settings)))
        return loaded[0]

    return load


def _ask(
    name: str,
    folder: Path,
    digest: str,
    exam: Exam,
    load: Callable[[], Examinee],
    fresh: bool,
    progress: Progress | None,
) -> Answers:
    described = about(exam, folder, digest)
    store = kept(exam, described)
    with store.opened(described):
        if fresh:
            store.write([])
        results = store.read()
        num_kept = len(results)
        if not is_done(exam, results):
            num_kept = num_whole_blocks(exam, results)
            results = examine(exam, load(), SingleProcess(), store=store, progress=progress)
    return Answers(
        model=name,
        summary=summarize(exam.name, exam.benchmark.marks, results),
        results=results,
        questions=store.questions,
        about=described,
        num_kept=num_kept,
    )


def _compared(exam: Exam, answers: Answers, baseline: Answers | None) -> Compared:
    pairings: tuple[Pairing, ...] = ()
    if baseline is not None:
        marks = exam.benchmark.marks
        pairings = tuple(pair(mark, answers.results, baseline.results) for mark in marks)
    return Compared(task=exam.name, answers=answers, baseline=baseline, pairings=pairings)
