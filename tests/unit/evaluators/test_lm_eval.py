"""The evaluator `lm_eval`: its keys, and ranks that share the questions out."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ptl_plugins.evaluators.lm_eval import LmEval

GOOD = {"tasks": ["math500"]}


@pytest.mark.parametrize(
    "settings",
    [
        GOOD,
        {**GOOD, "limit": 5, "batch_size": 2, "max_new_tokens": 9, "chat_template": "qwen_math"},
        {"tasks": ["mbpp"], "allow_code_execution": True},
    ],
)
def test_good_settings_are_taken(settings):
    assert LmEval().check(settings) is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "tasks is missing"),
        ({"tasks": []}, "tasks: [] is not a list of at least one task"),
        ({"tasks": "math500"}, "tasks: 'math500' is not a list of at least one task"),
        ({"tasks": ["chain_of_thought"]}, "an evaluator of its own"),
        ({**GOOD, "data_dir": "."}, "data_dir: data of MATH-500 are missing: looked for math500/"),
        ({"tasks": ["math5000"]}, "did you mean 'math500'"),
        ({"tasks": ["math500", "math500"]}, "named twice"),
        ({**GOOD, "limits": 3}, "unknown key 'limits' (did you mean 'limit'?); allowed: tasks"),
        ({**GOOD, "limit": 0}, "limit: "),
        ({**GOOD, "limit": "3"}, "limit: '3' is not a whole number >= 1"),
        ({**GOOD, "batch_size": 1.5}, "batch_size: "),
        ({**GOOD, "chat_template": "gemma"}, "chat_template: 'gemma' is not own or qwen_math"),
        ({**GOOD, "data_dir": "nowhere"}, "data_dir: 'nowhere' is no folder"),
        ({"tasks": ["mbpp"]}, "allow_code_execution: true"),
    ],
)
def test_what_is_wrong_is_one_line(settings, told):
    wrong = LmEval().check(settings)
    assert wrong is not None
    assert told in wrong
    assert "\n" not in wrong


class ThreadRank:
    """One of two ranks that meet in threads."""

    size = 2

    def __init__(self, rank: int, meeting: threading.Barrier, values: list) -> None:
        self.rank, self.meeting, self.values = rank, meeting, values

    def gather(self, value):
        self.values[self.rank] = value
        self.meeting.wait(timeout=10)
        found = list(self.values)
        self.meeting.wait(timeout=10)
        return found


def test_ranks_share_the_questions_and_all_return_the_same(tmp_path, monkeypatch):
    from ptl_plugins.evaluation import examination
    from ptl_plugins.evaluation.values import QuestionResult, Settings

    rows = [{"problem": f"{n}?", "solution": f"\\boxed{{{n}}}"} for n in range(7)]
    (tmp_path / "math500").mkdir()
    (tmp_path / "math500/test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked: dict[str, list[int]] = {"one": [], "two": []}

    def ask(examinee, benchmark, questions, *_):
        asked[examinee] += [question.index for question in questions]
        return [QuestionResult(index=q.index, status="scored") for q in questions]

    monkeypatch.setattr(examination, "ask", ask)
    monkeypatch.setattr(examination, "require_room", lambda *_: None)
    monkeypatch.setattr(examination, "BATCHES_PER_BLOCK", 1)
    meeting, values = threading.Barrier(2), [None, None]
    settings = Settings(data_dir=str(tmp_path), batch_size=2)
    with (
        examination.prepared(["math500"], settings) as (exam,),
        ThreadPoolExecutor(2) as pool,
    ):
        runs = [
            pool.submit(examination.examine, exam, name, ThreadRank(rank, meeting, values))
            for rank, name in enumerate(asked)
        ]
        results = [[result.index for result in run.result()] for run in runs]
    assert results == [list(range(7))] * 2
    assert asked == {"one": [0, 2, 4, 6], "two": [1, 3, 5]}
