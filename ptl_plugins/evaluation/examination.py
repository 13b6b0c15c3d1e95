"""All questions of a task: in blocks, shared out to the ranks, kept on the disk as they come."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.durable import digest_of_files
from ptl_plugins.evaluation.asking import Examinee, ask, require_room
from ptl_plugins.evaluation.benchmarks import Benchmark, find_benchmark
from ptl_plugins.evaluation.math_judge import MathJudge
from ptl_plugins.evaluation.question_files import read_questions
from ptl_plugins.evaluation.result_store import ResultStore, store_for
from ptl_plugins.evaluation.scoring import Scorer, scorer_for
from ptl_plugins.evaluation.upstream_tasks import task_digest
from ptl_plugins.evaluation.values import EvaluationError, Question, QuestionResult, Settings
from ptl_plugins.ranks import Ranks

BATCHES_PER_BLOCK = 16
RULES = 1
"""Raised when prompts, marks or counts change, so that kept results are not taken for new ones."""
DISTRIBUTIONS = ("lm-eval", "transformers", "torch", "math-verify", "sympy")
MODEL_FILES = (
    "*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
Progress = Callable[[str, int, int], None]
"""Called with the task, the questions done and the questions in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Exam:
    """A task, ready to be given: its questions are read, its scorer is there."""

    benchmark: Benchmark
    questions: Sequence[Question]
    scorer: Scorer
    settings: Settings

    @property
    def name(self) -> str:
        """The task's name."""
        return self.benchmark.name


@contextlib.contextmanager
def prepared(tasks: Sequence[str], settings: Settings) -> Iterator[list[Exam]]:
    """Yield the exams of some tasks, of which everything is checked that needs no model.

    Raises:
        PTLError: a task is unknown or named twice, its data are missing, it may not run code, or
            a library is not there.
    """
    if doubled := next((name for name in tasks if list(tasks).count(name) > 1), None):
        raise EvaluationError(f"task '{doubled}' is named twice; name it once")
    benchmarks = [find_benchmark(name) for name in tasks]
    exams: list[Exam] = []
    with contextlib.ExitStack() as stack:
        judge = functools.cache(lambda: stack.enter_context(MathJudge()))
        for benchmark in benchmarks:
            scorer = scorer_for(benchmark, settings, judge)
            questions = read_questions(benchmark, settings.data_dir)[: settings.limit]
            if all(question.unreadable for question in questions):
                raise EvaluationError(
                    f"task '{benchmark.name}': none of the first {len(questions)} true answers "
                    f"can be read ({questions[0].unreadable}); give a larger limit"
                )
            exams.append(
                Exam(benchmark=benchmark, questions=questions, scorer=scorer, settings=settings)
            )
        yield exams


def examine(
    exam: Exam,
    examinee: Examinee,
    ranks: Ranks,
    *,
    store: ResultStore | None = None,
    progress: Progress | None = None,
) -> list[QuestionResult]:
    """Return the results of every question, equal in every rank.

    Args:
        exam: the task.
        examinee: who is asked.
        ranks: each asks its share of a block.
        store: where the results of every block are kept, and those of an earlier try are; it is
            held by the caller. None: nowhere.
        progress: told after every block.

    Raises:
        EvaluationError: the model has no chat template for a chat, or not room for one prompt.
    """
    results = store.read() if store else []
    results = results[: num_whole_blocks(exam, results, ranks.size)]
    block = _block(exam, ranks.size)
    if not results:
        require_fit(exam, examinee)
    for start in range(len(results), len(exam.questions), block):
        if progress:
            progress(exam.name, start, len(exam.questions))
        mine = exam.questions[start : start + block][ranks.rank :: ranks.size]
        shares = ranks.gather(ask(examinee, exam.benchmark, mine, exam.settings, exam.scorer))
        results += sorted(itertools.chain(*shares), key=lambda result: result.index)
        if store:
            store.write(results)
    if progress:
        progress(exam.name, len(results), len(exam.questions))
    return results


def num_whole_blocks(exam: Exam, results: Sequence[QuestionResult], num_ranks: int = 1) -> int:
    """Return how many of an earlier try's results are kept: all of them, or whole blocks."""
    if is_done(exam, results):
        return len(results)
    block = _block(exam, num_ranks)
    return len(results) // block * block


def _block(exam: Exam, num_ranks: int) -> int:
    return exam.settings.batch_size * BATCHES_PER_BLOCK * num_ranks


def require_fit(exam: Exam, examinee: Examinee) -> None:
    """Refuse what a model cannot be asked at all; its weights are not looked at.

    Raises:
        EvaluationError: it has no chat template for a chat, or not room for one prompt.
    """
    require_room(examinee, exam.benchmark, exam.questions, exam.settings)


def is_done(exam: Exam, results: Sequence[QuestionResult]) -> bool:
    """Whether there is a result for every question."""
    return len(results) == len(exam.questions)


def model_digest(model: Path) -> str:
    """Return a SHA-256 of everything that decides a checkpoint's answers: weights, tokenizer."""
    return hashlib.sha256(
        "\n".join(digest_of_files(model, pattern) for pattern in MODEL_FILES).encode()
    ).hexdigest()


def about(exam: Exam, model: Path, digest: str) -> dict[str, Any]:
    """Return what decides the results of a model on a task, as plain values.

    The model's path and the data's are told for the reader and are not part of `key`.
    """
    return {
        "key": {"model": digest, **_task_key(exam)},
        "model": str(model),
        "data_dir": exam.settings.data_dir,
    }


def kept(exam: Exam, described: dict[str, Any]) -> ResultStore:
    """Return the store that belongs to what `about` told."""
    return store_for(described["key"])


def _task_key(exam: Exam) -> dict[str, Any]:
    settings = dataclasses.asdict(exam.settings)
    for place in ("data_dir", "allow_code_execution"):
        del settings[place]
    upstream = exam.benchmark.upstream
    return {
        "task": exam.name,
        "questions": _digest([[q.doc, q.unreadable] for q in exam.questions]),
        "upstream": task_digest(upstream) if upstream else None,
        "settings": settings,
        "scoring": exam.scorer.rule,
        "device": _device(),
        "rules": RULES,
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def _device() -> str:
    import torch

    from ptl_plugins.live import accelerator

    device = accelerator()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
