"""The miniature's data: nested budgets, from generated problems or from given files."""

import json

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import miniature
from ptl_plugins.quickstart.miniature import BUDGETS, NUM_HELD_OUT, write_miniature


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr("ptl_plugins.quickstart.model.write_model", lambda folder: None)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problems(path, number, keys=("question", "answer")):
    text = "".join(json.dumps({keys[0]: f"q{i}", keys[1]: f"a{i}"}) + "\n" for i in range(number))
    path.write_text(text, encoding="utf-8")
    return path


def test_a_larger_budget_begins_with_the_smaller_one(tmp_path):
    write_miniature(tmp_path)
    texts = {n: rows(tmp_path / "data" / f"mini_{n}.jsonl") for n in BUDGETS}
    entries = json.loads((tmp_path / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    assert [len(texts[n]) for n in BUDGETS] == list(BUDGETS)
    assert all(texts[BUDGETS[-1]][:n] == texts[n] for n in BUDGETS)
    assert sorted(entries) == sorted(f"mini_{n}" for n in BUDGETS)
    assert len(rows(tmp_path / "data" / "held_out.jsonl")) == NUM_HELD_OUT
    assert (tmp_path / "data" / "other_text.jsonl").is_file()


def test_budgets_keep_their_names_and_their_order_when_they_are_larger(tmp_path):
    write_miniature(tmp_path / "one")
    write_miniature(tmp_path / "more", times=3)
    small, large = (rows(tmp_path / name / "data" / "mini_96.jsonl") for name in ("one", "more"))
    assert len(large) == 3 * 96
    assert large[:96] == small
    held_out = [
        (tmp_path / name / "data" / "held_out.jsonl").read_bytes() for name in ("one", "more")
    ]
    assert held_out[0] == held_out[1]
    with pytest.raises(PTLError, match="--times 0: is no whole number of 1 or more"):
        write_miniature(tmp_path / "none", times=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("keys", miniature.KEYS)
def test_given_problems_become_the_quickstarts_documents(tmp_path, keys):
    train = problems(tmp_path / "train.jsonl", BUDGETS[-1], keys)
    held_out = problems(tmp_path / "test.jsonl", NUM_HELD_OUT, keys)
    write_miniature(tmp_path / "mini", train=train, held_out=held_out)
    data = tmp_path / "mini" / "data"
    assert rows(data / "mini_96.jsonl")[1] == {"text": "Question: q1\nAnswer: a1"}
    assert rows(data / "held_out.jsonl")[2] == {"question": "q2", "answer": "a2"}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "train.jsonl: line 1: is not JSON"),
        ('{"text": "x"}', "needs the keys 'question' and 'answer' or 'problem' and 'solution'"),
        ('{"question": "q", "answer": "a"}', "has 1 problems, 768 are needed"),
    ],
)
def test_a_wrong_file_is_named_and_nothing_is_written(tmp_path, line, named):
    train = tmp_path / "train.jsonl"
    train.write_text(line + "\n", encoding="utf-8")
    held_out = problems(tmp_path / "test.jsonl", NUM_HELD_OUT)
    with pytest.raises(PTLError, match=named):
        write_miniature(tmp_path / "mini", train=train, held_out=held_out)
    assert not (tmp_path / "mini").exists()


def test_what_is_there_stays_if_it_is_the_same_and_nothing_else_takes_its_place(tmp_path):
    write_miniature(tmp_path / "mini")
    data = tmp_path / "mini" / "data"
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    write_miniature(tmp_path / "mini")
    train = problems(tmp_path / "train.jsonl", BUDGETS[-1])
    held_out = problems(tmp_path / "test.jsonl", NUM_HELD_OUT)
    with pytest.raises(PTLError, match=r"mini/data: holds other problems \(dataset_info|\(held"):
        write_miniature(tmp_path / "mini", train=train, held_out=held_out)
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_one_file_without_the_other_is_refused(tmp_path):
    with pytest.raises(PTLError, match="go together"):
        write_miniature(tmp_path, train=tmp_path / "train.jsonl")
