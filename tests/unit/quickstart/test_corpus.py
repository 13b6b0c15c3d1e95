"""The generated corpus: format, cleaning, determinism, and nothing held out that is trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import corpus
from ptl_plugins.quickstart.prompt import document, prompt


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def item(question="How many?", answer="1+2=3\n#### 3", result="3"):
    return {"question": question, "answer": result, "metadata": {"answer_cot": answer}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    corpus.write_corpus(path, num_training=300, num_held_out=60, seed=7)
    return path


def test_training_rows_have_the_format_that_prompt_and_answer_have(folder):
    training, held_out = rows_of(folder / "train.jsonl"), rows_of(folder / "held_out.jsonl")
    assert [len(training), len(held_out)] == [300, 60]
    for row in training:
        assert row["text"].startswith("Question: ")
        assert "\nAnswer: " in row["text"]
        assert "Do not include units" not in row["text"]
        assert row["text"].splitlines()[-1].startswith("#### ")
    for row in held_out:
        assert document(row["question"], row["answer"]) == prompt(row["question"]) + row["answer"]
        assert row["answer"].endswith(f"\n#### {row['result']}")


def test_no_held_out_question_is_trained_on_and_none_occurs_twice(folder):
    trained = [row["text"].split("\nAnswer: ")[0] for row in rows_of(folder / "train.jsonl")]
    held_out = [f"Question: {row['question']}" for row in rows_of(folder / "held_out.jsonl")]
    assert len(set(trained + held_out)) == 360


def test_a_held_out_question_that_turns_up_in_training_is_dropped(tmp_path, monkeypatch):
    same_for_every_seed = [item(question=f"Q{n}?") for n in range(10)]
    monkeypatch.setattr(corpus, "_items", lambda first_seed: iter(same_for_every_seed))
    corpus.write_corpus(tmp_path, num_training=5, num_held_out=4, seed=0)
    texts = [row["text"] for row in rows_of(tmp_path / "train.jsonl")]
    assert [text.split("\n")[0] for text in texts] == [f"Question: Q{n}?" for n in range(4, 9)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder, tmp_path):
    for name, seed in [("same", 7), ("other", 8)]:
        corpus.write_corpus(tmp_path / name, num_training=300, num_held_out=60, seed=seed)
    for file in ("train.jsonl", "held_out.jsonl", "other_text.jsonl", "dataset_info.json"):
        assert (tmp_path / "same" / file).read_bytes() == (folder / file).read_bytes()
    other = {row["text"] for row in rows_of(tmp_path / "other" / "train.jsonl")}
    # reasoning-gym gives neighbouring seeds the same items, moved by one.
    assert not other & {row["text"] for row in rows_of(folder / "train.jsonl")}


def test_held_out_rows_do_not_depend_on_the_size_of_the_training_set(folder, tmp_path):
    corpus.write_corpus(tmp_path, num_training=3, num_held_out=60, seed=7)
    assert (tmp_path / "held_out.jsonl").read_bytes() == (folder / "held_out.jsonl").read_bytes()


def test_more_rows_than_one_draw_continue_with_new_items(monkeypatch):
    whole = [one["question"] for one in islice(corpus._items(5), 12)]
    monkeypatch.setattr(corpus, "ITEMS_PER_DRAW", 6)
    pieces = [one["question"] for one in islice(corpus._items(5), 12)]
    assert pieces[:6] == whole[:6]
    assert len(set(pieces)) == 12


def test_llamafactory_finds_the_training_file(folder):
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    assert info == {"gsm_symbolic": {"file_name": "train.jsonl", "columns": {"prompt": "text"}}}
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset_info.json",
        "held_out.jsonl",
        "other_text.jsonl",
        "train.jsonl",
    ]


def test_cleaning_drops_the_instruction_and_useless_decimals():
    row = corpus.clean(
        item(f"A bed of 220.0 m?{corpus.INSTRUCTION}", "He has 2*18.0=36.0 m.\n#### 36.0", "36")
    )
    assert row == {
        "question": "A bed of 220 m?",
        "answer": "He has 2*18=36 m.\n#### 36",
        "result": "36",
    }


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("14.500000000000002 - 12 = 2.5\n#### 2.5", "2.5"),
        ("Ben has 17*0.5=8 tubes\n#### 8", "8"),
        ("He has \u00a339.24 - \u00a330.24 = \u00a38 left.\n#### 8", "8"),
        ("1+2=3\n#### 3", "4"),
    ],
)
def test_answers_that_teach_something_wrong_are_refused(answer, result):
    assert corpus.clean(item(answer=answer, result=result)) is None


@pytest.mark.parametrize(
    "answer",
    [
        "$62 + $148 + $23 = $233",
        "It takes 14\u00f71/2=28 minutes at 15/60 = 1/4 miles",
        "$300,000 x 3/100 = $9,000",
        "96 / 240 * 100% = 40%",
        "10 / 3 = 3.33 and 2 + 3 = 5.",
    ],
)
def test_right_sums_and_longer_chains_pass(answer):
    assert corpus.sums_are_right(answer)


@pytest.mark.parametrize("wrong", ["num_training", "num_held_out", "seed"])
def test_a_negative_number_is_refused(tmp_path, wrong):
    numbers = {"num_training": 1, "num_held_out": 1, "seed": 1, wrong: -1}
    with pytest.raises(PTLError, match="-1 is negative"):
        corpus.write_corpus(tmp_path / "new", **numbers)
    assert not (tmp_path / "new").exists()


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(PTLError, match="pip install reasoning-gym"):
        corpus.write_corpus(tmp_path, num_training=1, num_held_out=0, seed=0)


def test_importing_it_loads_no_torch():
    code = (
        "import sys, ptl_plugins.quickstart.corpus, ptl_plugins.quickstart.prompt;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
