"""Questions from files, and what is wrong with them in one line."""

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation.benchmarks import BENCHMARKS, find_benchmark
from ptl_plugins.evaluation.question_files import read_questions


def read(name, folder):
    return read_questions(find_benchmark(name), str(folder))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_task_reads_its_local_file(name, data_dir):
    questions = read(name, data_dir)
    assert [question.index for question in questions] == list(range(len(questions)))
    assert not any(question.unreadable for question in questions)


def test_missing_data_are_told_with_every_path_that_was_looked_at(tmp_path):
    with pytest.raises(PTLError) as error:
        read("gsm8k_cot", tmp_path)
    assert f"{tmp_path}/gsm8k/test.jsonl, {tmp_path}/gsm8k.jsonl" in str(error.value)
    assert "openai/gsm8k" in str(error.value)


def test_without_a_network_the_folder_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PTLError, match="--data-dir"):
        read_questions(find_benchmark("math500"), None)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "How many?", "answer": "seven"}, "no '#### number'"),
        ({"question": "How many?"}, "no '#### number'"),
        ({"question": "", "answer": "#### 7"}, "no text in 'question'"),
        ({"answer": "#### 7"}, "no text in 'question'"),
        ({"question": ["How", "many?"], "answer": "#### 7"}, "no text in 'question'"),
        ({"question": "How many?", "answer": "#### n/a"}, "no '#### number'"),
        ({"question": "How many?", "answer": ["#### 5"]}, "no '#### number'"),
        ({"question": "How \ud83d many?", "answer": "#### 5"}, "surrogate"),
    ],
)
def test_one_bad_row_is_marked_and_the_others_are_asked(row, why, tmp_path, pears, write_rows):
    write_rows(tmp_path / "gsm8k/test.jsonl", [pears[0], row])
    questions = read("gsm8k_cot", tmp_path)
    assert not questions[0].unreadable
    assert why in questions[1].unreadable


def test_data_without_one_good_row_are_refused(tmp_path, write_rows):
    write_rows(tmp_path / "math500/test.jsonl", [{"problem": "How many?", "solution": "seven"}])
    with pytest.raises(PTLError, match="no true answer of MATH-500 can be read"):
        read("math500", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
def test_a_file_that_holds_no_rows_is_refused_by_name(text, tmp_path):
    path = tmp_path / "gsm8k/test.jsonl"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(PTLError, match=r"gsm8k/test\.jsonl"):
        read("gsm8k_cot", tmp_path)


def test_only_mbpps_test_split_is_asked(tmp_path, additions, write_rows):
    rows = [dict(additions[0], task_id=task) for task in (1, 10, 11, 510, 511, 974)]
    write_rows(tmp_path / "mbpp/mbpp.jsonl", rows)
    assert len(read("mbpp", tmp_path)) == 2


def test_chat_gold_of_gsm8k_is_the_number_alone(data_dir):
    assert read("gsm8k_chat", data_dir)[0].doc["answer"] == "3"


@pytest.mark.parametrize("answer", ["#### 1,200", "#### -3", "#### $5", "<<1=1>>\n####  7.5 "])
def test_worked_numbers_are_read_with_their_signs(answer, tmp_path, write_rows):
    write_rows(tmp_path / "gsm8k/test.jsonl", [{"question": "How many?", "answer": answer}])
    assert not read("gsm8k_cot", tmp_path)[0].unreadable


@pytest.mark.parametrize(
    "gold", [{"answer": [1, 2]}, {"solution": {"a": 1}}, {"answer": True}, {"answer": None}]
)
def test_a_gold_that_is_neither_text_nor_number_is_unreadable(gold, tmp_path, write_rows):
    rows = [{"problem": "How many?", "answer": 0}, {"problem": "How many?", **gold}]
    write_rows(tmp_path / "math500/test.jsonl", rows)
    first, second = read("math500", tmp_path)
    assert not first.unreadable
    assert first.doc["answer"] == "0"
    assert second.unreadable


@pytest.mark.parametrize("tests", ["assert f(1) == 2", [None, None, None], ["", "", ""], [], None])
def test_tests_that_would_let_any_program_pass_are_unreadable(
    tests, tmp_path, additions, write_rows
):
    write_rows(tmp_path / "mbpp/mbpp.jsonl", [additions[0], additions[1] | {"test_list": tests}])
    assert [bool(question.unreadable) for question in read("mbpp", tmp_path)] == [False, True]
