"""A benchmark's questions, from a folder of jsonl files or from the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation.benchmarks import MBPP, Benchmark, DataSet
from ptl_plugins.evaluation.upstream_tasks import load_task_functions
from ptl_plugins.evaluation.values import EvaluationError, Question
from ptl_plugins.given_path import given_path
from ptl_plugins.text_data import read_rows

MBPP_TEST = range(11, 511)
"""The task ids of MBPP's test split; 1 to 10 are for prompts, the rest for training."""
WORKED_NUMBER = re.compile(r"####[^#\d]{0,20}\d[^#]*$")
"""The last line of a worked answer; a sign or a currency may stand before the number."""
NUM_TESTS = 3
"""Tests that MBPP's prompt shows."""
Row = Mapping[str, Any]


def read_questions(benchmark: Benchmark, data_dir: str | None) -> list[Question]:
    """Return every question of a benchmark, in the data's order.

    A question whose true answer cannot be read is marked so, and stays.

    Raises:
        PTLError: the data are not there (the paths looked at are named), are no jsonl, or no
            question has a readable answer.
    """
    where, rows = _rows(benchmark.data, data_dir)
    form = _FORMS[benchmark.scoring]
    questions = [
        _question(index, row, benchmark.data, form)
        for index, row in enumerate(_of_test_split(benchmark.data, rows))
    ]
    if not questions:
        raise EvaluationError(f"{where}: holds no question of {benchmark.data.name}")
    if all(question.unreadable for question in questions):
        raise EvaluationError(
            f"{where}: no true answer of {benchmark.data.name} can be read "
            f"(row 1: {questions[0].unreadable})"
        )
    return questions


def data_file(data: DataSet, data_dir: str) -> Path:
    """Return the data set's file below `data_dir`.

    Raises:
        EvaluationError: there is none; every path looked at is named.
    """
    folder = given_path(data_dir)
    paths = [folder / name for name in data.files]
    for path in paths:
        if path.is_file():
            return path
    looked = ", ".join(map(str, paths))
    missing = "" if folder.is_dir() else f"; '{folder}' is no folder"
    raise EvaluationError(
        f"data of {data.name} are missing: looked for {looked}{missing}; put a jsonl file there, "
        f"or leave the data folder out to take {data.hub} from the hub"
    )


def _rows(data: DataSet, data_dir: str | None) -> tuple[str, Iterable[Row]]:
    """Return a name for the source, and its rows."""
    if data_dir is None:
        return data.hub, _from_hub(data)
    path = data_file(data, data_dir)
    return str(path), read_rows(str(path))


def _from_hub(data: DataSet) -> list[Row]:
    try:
        return [
            row for subset in data.subsets for row in read_rows(f"{data.hub}:{subset}", data.split)
        ]
    except PTLError as error:
        raise EvaluationError(
            f"data of {data.name}: {error}; without a network give a folder with "
            f"{' or '.join(data.files)} (--data-dir)"
        ) from None


def _of_test_split(data: DataSet, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of the test split: MBPP's one file holds all splits."""
    for row in rows:
        if data is not MBPP or row.get("task_id", MBPP_TEST[0]) in MBPP_TEST:
            yield row


def _question(
    index: int, row: Row, data: DataSet, form: Callable[[Row, str], dict[str, Any]]
) -> Question:
    asked = next((row[column] for column in data.question if row.get(column)), "")
    doc = {"index": index, **form(row, str(asked))}
    why = doc.pop("unreadable")
    if not isinstance(asked, str) or not asked.strip():
        wanted = " or ".join(f"'{column}'" for column in data.question)
        why = f"it has no text in {wanted}, but the columns {', '.join(map(str, row))}"
    if not _is_text(doc):
        doc, why = {"index": index}, "it holds half of a surrogate pair, which is no text"
    shown = f"{asked}{doc.get('test_list', '')}"
    return Question(index=index, doc=doc, asked=shown, unreadable=why)


def _is_text(value: Any) -> bool:
    """Whether all texts in a document can be written as UTF-8."""
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True
    return not isinstance(value, dict | list) or all(map(_is_text, parts))


def _plain(value: Any) -> str:
    """Return a text or a number as text; anything else is no answer."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)


def _worked_number(row: Row, asked: str) -> dict[str, Any]:
    """GSM8K: a worked answer that ends in `#### number`."""
    answer = _plain(row.get("answer"))
    why = "" if WORKED_NUMBER.search(answer) else "its answer has no '#### number'"
    return {"question": asked, "answer": answer, "unreadable": why}


def _mathematical(row: Row, asked: str) -> dict[str, Any]:
    r"""MATH and its kin: a solution with `\boxed{}`, an answer, or GSM8K's worked answer."""
    solution, answer = _plain(row.get("solution")), _plain(row.get("answer"))
    if "####" in answer and not solution:
        number = answer.rpartition("####")[2].strip().replace(",", "")
        answer = number if WORKED_NUMBER.search(answer) else ""
    boxed = load_task_functions("minerva_math").last_boxed_only_string(solution)
    why = "" if boxed or answer else "it has neither an answer nor a solution with \\boxed{}"
    return {"problem": asked, "solution": solution, "answer": answer, "unreadable": why}


def _program(row: Row, asked: str) -> dict[str, Any]:
    """MBPP: a task in words and three tests."""
    tests = row.get("test_list")
    ok = (
        isinstance(tests, list)
        and len(tests) >= NUM_TESTS
        and all(isinstance(test, str) and test.strip() for test in tests)
    )
    why = "" if ok else f"it has no list of {NUM_TESTS} tests in 'test_list'"
    shown = tests if ok and tests else [""] * NUM_TESTS
    return {"text": asked, "code": str(row.get("code") or ""), "test_list": shown,
            "unreadable": why}  # fmt: skip


_FORMS = {"lm_eval": _worked_number, "math": _mathematical, "code": _program}
