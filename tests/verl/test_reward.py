"""The marks of the reward: the table of answers, the format, and input that is no answer at all."""

import ast
import importlib.util
import math
import runpy
import sys
import time
from pathlib import Path

import pytest

import verl_ext

FILE = Path(verl_ext.__file__).parent / "reward.py"
TABLE = runpy.run_path(str(Path(__file__).parent / "reward_answers.py"))
GOOD = r"<think>2 + 2 is 4.</think> So \boxed{4}."


@pytest.fixture(scope="module")
def reward():
    # As the frameworks do: by path, and (verl) without an entry in sys.modules
    spec = importlib.util.spec_from_file_location("custom_reward_fn", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for judge in module._JUDGES.values():
        judge.close()


@pytest.fixture
def accuracy(reward):
    pytest.importorskip("math_verify")

    def judged(truth, answer):
        scored = reward.score_answer("math", rf"\boxed{{{answer}}}", truth, time_limit=30.0)
        return scored["acc"]

    return judged


def test_the_table_is_long_enough():
    assert sum(len(TABLE[name]) for name in ("RIGHT", "WRONG", "KNOWN_WRONG")) >= 100


@pytest.mark.parametrize(("truth", "answer"), TABLE["RIGHT"])
def test_an_equal_answer_is_right(accuracy, truth, answer):
    assert accuracy(truth, answer) == 1.0


@pytest.mark.parametrize(("truth", "answer"), TABLE["WRONG"])
def test_another_answer_is_wrong(accuracy, truth, answer):
    assert accuracy(truth, answer) == 0.0


@pytest.mark.parametrize(("truth", "answer", "by_mathematics", "reason"), TABLE["KNOWN_WRONG"])
def test_a_known_misjudgement_is_still_one(accuracy, truth, answer, by_mathematics, reason):
    assert accuracy(truth, answer) == float(not by_mathematics), f"no longer so: {reason}"


@pytest.mark.parametrize(("response", "truth", "accuracy", "in_format"), TABLE["RESPONSES"])
def test_a_response_has_its_two_marks(reward, response, truth, accuracy, in_format):
    scored = reward.score_answer("math", response, truth)
    assert (scored["acc"], scored["format"]) == (accuracy, in_format)


def test_the_default_weights_are_nine_to_one(reward):
    assert reward.score_answer("math", GOOD, "4")["score"] == pytest.approx(1.0)
    assert reward.score_answer("math", GOOD, "5")["score"] == pytest.approx(0.1)
    assert reward.score_answer("math", r"\boxed{4}", "4")["score"] == pytest.approx(0.9)


def test_the_weights_are_settings_of_both_forms(reward):
    weights = {"accuracy_weight": 0.5, "format_weight": 2.0}
    one = reward.score_answer("math", GOOD, "4", extra_info={"index": 1}, **weights)
    batch = reward.score_answers([{"response": GOOD, "ground_truth": "4"}], **weights)
    assert one == {"score": 2.5, "acc": 1.0, "format": 1.0}
    assert batch == [{"overall": 2.5, "format": 1.0, "accuracy": 1.0}]


def test_a_misspelt_setting_is_refused_rather_than_ignored(reward):
    with pytest.raises(TypeError, match="acuracy_weight"):
        reward.score_answer("math", GOOD, "4", acuracy_weight=1.0)


def test_the_batch_keeps_the_order_of_its_answers(reward):
    inputs = [
        {"response": rf"\boxed{{{number}}}", "response_length": 3, "ground_truth": "2"}
        for number in range(5)
    ]
    assert [score["accuracy"] for score in reward.score_answers(inputs)] == [0, 0, 1, 0, 0]
    assert reward.REWARD_TYPE == "batch"


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")


ODD = [
    *(None, 0, 42, 1.5, math.nan, True, b"\xff\xfe", "\0", "\ud800", "{" * 5000, "}" * 5000),
    *([], {}, object(), Unprintable(), 10**5000, "\\", r"\boxed", r"\boxed{", "$", "%", "."),
    *(r"\boxed{\ud800}", "\\boxed{\0}", "\\boxed{\ud800 + \0}", "\\boxed{\u0664}", r"\boxed{$}"),
]


@pytest.mark.parametrize("index", range(len(ODD)))
def test_nothing_that_is_given_raises(reward, index):
    odd = ODD[index]
    for response, truth in ((odd, "4"), (GOOD, odd), (odd, odd), ([odd], odd)):
        scored = reward.score_answer(None, response, truth)
        assert set(scored) == {"score", "acc", "format"}
        assert all(isinstance(mark, float) for mark in scored.values())
        assert reward.score_answers([{"response": response, "ground_truth": truth}, odd])[1] == {
            "overall": 0.0,
            "format": 0.0,
            "accuracy": 0.0,
        }


def test_no_batch_is_an_empty_one(reward):
    assert reward.score_answers(None) == reward.score_answers([]) == []


@pytest.mark.parametrize(
    "unit",
    ["\\boxed{", "{", "{}", "}", "\\boxed ", "\\", "<think>", "</think>", "\\left", "$", "%", ". "],
)
def test_a_megabyte_of_anything_is_judged_in_time(reward, unit):
    long = unit * (1_000_000 // len(unit))
    start = time.monotonic()
    reward.score_answer("math", long, "4")
    reward.score_answer("math", rf"\boxed{{{long}}}", "4")
    reward.score_answer("math", GOOD, long)
    assert time.monotonic() - start < 10


def test_the_file_stands_alone():
    names = set()
    for node in ast.walk(ast.parse(FILE.read_text(encoding="ascii"), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - sys.stdlib_module_names == {"math_verify", "mathruler"}
