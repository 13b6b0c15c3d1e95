"""What `ptl eval` saves: one JSON file, and beside it a line per question and task."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace, write_json
from ptl_plugins.evaluation.comparison import Answers, Compared
from ptl_plugins.evaluation.result_store import writing
from ptl_plugins.evaluation.values import EvaluationError


def require_place(out: Path) -> None:
    """Refuse a file that cannot be written, before hours of work.

    Raises:
        EvaluationError: it is a folder, or its folder is not there.
    """
    if out.is_dir():
        raise EvaluationError(f"--out {out}: is a folder; give a file such as {out / 'eval.json'}")
    if not os.access(out.absolute().parent, os.W_OK) and out.absolute().parent.is_dir():
        raise EvaluationError(f"--out {out}: '{out.absolute().parent}' cannot be written to")
    if not out.absolute().parent.is_dir():
        raise EvaluationError(f"--out {out}: there is no folder '{out.parent}'; make it first")


def save(out: Path, compared: Sequence[Compared], others: Mapping[str, Any]) -> list[Path]:
    """Write everything measured to `out`, and the questions beside it; return the files.

    Args:
        out: `NAME.json`; a task's questions go to `NAME.TASK.jsonl`, the baseline's to
            `NAME.TASK.baseline.jsonl`.
        compared: the tasks.
        others: what was measured beside them (speed, loss), and the machine.
    """
    with writing(out):
        return _save(out, compared, others)


def _save(out: Path, compared: Sequence[Compared], others: Mapping[str, Any]) -> list[Path]:
    files = []
    for task in compared:
        files.append(_copy(task.answers.questions, out.with_name(f"{out.stem}.{task.task}.jsonl")))
        if task.baseline is not None:
            target = out.with_name(f"{out.stem}.{task.task}.baseline.jsonl")
            files.append(_copy(task.baseline.questions, target))
    tasks = {task.task: _task(task) for task in compared}
    write_json(out, {**others, "tasks": tasks})
    return [out, *files]


def _task(task: Compared) -> dict[str, Any]:
    return {
        "model": _answers(task.answers),
        "baseline": _answers(task.baseline) if task.baseline else None,
        "compared": [dataclasses.asdict(pairing) for pairing in task.pairings],
    }


def _answers(answers: Answers) -> dict[str, Any]:
    return {**dataclasses.asdict(answers.summary), "about": dict(answers.about)}


def _copy(source: Path, target: Path) -> Path:
    temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
    shutil.copyfile(source, temporary)
    replace(temporary, target)
    return target
