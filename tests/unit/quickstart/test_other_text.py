"""Prose from Python's help topics: its size, nothing twice, and no code."""

from __future__ import annotations

import json
import random
import sys

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import other_text
from ptl_plugins.quickstart.other_text import FILE, LONGEST, SHORTEST, passages, write_other_text

SENTENCE = "The quick brown fox jumps over the lazy dog, and what it thinks of it is unknown."
TOPIC = f"""Foxes
*****

{SENTENCE}
It goes on in
   a second line.

   fox_stmt ::= "fox" animal

   >>> Fox("a")
   Traceback (most recent call last):

+------+-------+
| Fox  | Brown |
+------+-------+

   {SENTENCE} Once more.

A short end.
"""


def written(folder):
    return [json.loads(line)["text"] for line in (folder / FILE).read_text("utf-8").splitlines()]


def test_texts_are_paragraphs_of_prose_without_titles_code_grammar_and_tables():
    first = f"{SENTENCE} It goes on in a second line."
    assert passages([TOPIC]) == [f"{first}\n\n{SENTENCE} Once more."]


def test_what_an_earlier_topic_said_is_not_said_again():
    assert len(passages([TOPIC])) == len(passages([TOPIC, TOPIC])) == 1


def test_a_paragraph_that_is_too_long_is_left_out():
    assert passages([f"{SENTENCE} {'It is long. ' * 200}\n\n{SENTENCE * 3}"]) == [SENTENCE * 3]


def test_every_python_gives_enough_texts_of_the_sizes_promised(tmp_path):
    write_other_text(tmp_path, number=256, seed=0)
    texts = written(tmp_path)
    assert len(set(texts)) == 256
    assert all(SHORTEST <= len(text) <= LONGEST for text in texts)
    words = " ".join(texts).split()
    assert sum(word in ("the", "a", "is", "of", "and", "to") for word in words) > len(words) / 8


def test_the_same_seed_gives_the_same_bytes_in_the_order_of_the_topics(tmp_path):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        write_other_text(tmp_path / name, number=40, seed=seed)
    a, b, c = ((tmp_path / name / FILE).read_bytes() for name in "abc")
    assert a == b != c
    every = passages(other_text._topics())
    places = [every.index(text) for text in written(tmp_path / "a")]
    assert places == sorted(random.Random(1).sample(range(len(every)), 40))


@pytest.mark.parametrize("number", [-1, 100_000])
def test_a_number_that_cannot_be_had_is_refused_and_nothing_is_written(tmp_path, number):
    with pytest.raises(PTLError, match=f"number: {number} is not 0 to "):
        write_other_text(tmp_path / "new", number=number, seed=0)
    assert not (tmp_path / "new").exists()


def test_a_python_without_its_topics_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(PTLError, match=r"pydoc_data.*; install its whole standard library$"):
        write_other_text(tmp_path, number=1, seed=0)
