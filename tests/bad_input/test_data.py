"""Corpora that are empty, broken, of the wrong form, or no corpora at all."""

from __future__ import annotations

import json
import os

import pytest
from good_recipes import FAKE, LLAMAFACTORY, RUN, changed, write_yaml

from ptl_plugins.testing import tiny_texts
from ptl_plugins.text_data import encode_texts

ROWS = [{"text": text} for text in tiny_texts(24)]


def lines(*rows):
    """Return rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = lines(*ROWS)
CASES = {
    # file, content, what is named
    "empty": ("c.jsonl", "", ("c.jsonl", "no text")),
    "blank lines": ("c.jsonl", "\n \n\t\n", ("c.jsonl", "no text")),
    "empty rows": ("c.jsonl", "{}\n{}\n", ("c.jsonl", "'text'")),
    "empty texts": ("c.jsonl", lines({"text": ""}, {"text": "  \n"}), ("c.jsonl", "no text")),
    "null texts": ("c.jsonl", lines({"text": None}, {"text": None}), ("c.jsonl", "no text")),
    "an empty list": ("c.json", "[]", ("c.json", "no text")),
    "an empty txt": ("c.txt", "\n\n", ("c.txt", "no text")),
    "not UTF-8": ("c.jsonl", GOOD.encode() + b'{"text": "\xff\xfe"}\n', ("c.jsonl", "UTF-8")),
    "cut in a letter": ("c.jsonl", GOOD.encode() + '{"text": "\u20ac'.encode()[:-1],
                        ("c.jsonl", "UTF-8")),
    "Latin-1": ("c.txt", "caf\xe9\n".encode("latin-1"), ("c.txt", "UTF-8")),
    "UTF-16": ("c.jsonl", GOOD.encode("utf-16"), ("c.jsonl", "UTF-8")),
    "cut in a row": ("c.jsonl", GOOD + '{"text": "1 + 1', ("c.jsonl", "line 25", "JSON")),
    "not JSON": ("c.jsonl", "one\ntwo\n", ("c.jsonl", "line 1", "JSON")),
    "two rows on a line": ("c.jsonl", '{"text": "a"} {"text": "b"}\n', ("c.jsonl", "line 1")),
    "single quotes": ("c.jsonl", "{'text': 'a'}\n", ("c.jsonl", "line 1", "JSON")),
    "a row that is a list": ("c.jsonl", GOOD + "[1]\n", ("c.jsonl", "line 25", "object")),
    "a row that is text": ("c.jsonl", GOOD + '"text"\n', ("c.jsonl", "line 25", "object")),
    "a row that is null": ("c.jsonl", GOOD + "null\n", ("c.jsonl", "line 25", "object")),
    "a list of texts": ("c.json", '["a", "b"]', ("c.json", "entry 1", "object")),
    "a list cut short": ("c.json", '[{"text": "a"}, ', ("c.json", "JSON")),
    "a mapping of lists": ("c.json", '{"text": ["a",\n "b"]}', ("c.json", "line 1", "JSON")),
    "rows in depth": ("c.jsonl", GOOD + "[" * 10**5 + "\n", ("c.jsonl", "line 25", "nested")),
    "a list in depth": ("c.json", "[" * 10**5, ("c.json", "nested")),
    "a number of many digits": ("c.jsonl", f'{{"text": {"9" * 5000}}}\n', ("c.jsonl", "line 1")),
    "another column": ("c.jsonl", lines({"content": "a"}), ("c.jsonl", "'text'", "content")),
    "mixed columns": ("c.jsonl", GOOD + lines({"content": "a"}), ("c.jsonl", "'text'", "content")),
    "a column of two lines": ("c.jsonl", lines({"a\nb": "x"}), ("c.jsonl", "'text'", "a\\nb")),
    "another kind": ("c.csv", "text\na\n", ("c.csv", ".jsonl")),
    "no kind": ("c", GOOD, ("data/c", ".jsonl")),
    "a zip": ("c.zip", b"PK\x03\x04", ("c.zip", ".jsonl")),
    "no parquet": ("c.parquet", GOOD, ("c.parquet", "parquet")),
    "an empty parquet": ("c.parquet", "", ("c.parquet", "parquet")),
    "parquet cut short": ("c.parquet", b"PAR1" + bytes(50), ("c.parquet", "parquet")),
}  # fmt: skip
OF_RUNS = {
    "one text for two rounds": ("c.jsonl", lines(ROWS[0]), ("c.jsonl", "2 rounds")),
    "texts that are mostly empty": (
        "c.jsonl", lines({"text": ""}, {"text": " "}, ROWS[0]), ("c.jsonl", "2 rounds")),
}  # fmt: skip


def write_corpus(place, case):
    name, content, names = (CASES | OF_RUNS)[case]
    path = place / "data" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"data/{name}", names


@pytest.mark.parametrize("case", CASES)
def test_ptl_profile_refuses(place, refused, case):
    data, names = write_corpus(place, case)
    refused("profile", "model", "--data", data, "--out", "new/scores", names=names)


@pytest.mark.parametrize("case", CASES | OF_RUNS)
def test_ptl_run_refuses(place, refused, case):
    data, names = write_corpus(place, case)
    write_yaml(place / "wrong.yaml", changed(RUN, "data.path", f"./{data}"))
    refused("run", "wrong.yaml", *FAKE, names=("wrong.yaml: ", *names))


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize("case", [case for case in CASES if "parquet" not in case])
def test_a_protect_set(place, refused, command, case):
    data, names = write_corpus(place, case)
    keys = changed(RUN, "protect", {"data": f"./{data}", "top": 2})
    write_yaml(place / "wrong.yaml", keys)
    refused(command, "wrong.yaml", *FAKE, names=("wrong.yaml: protect", *names))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--column", "body"), ("data/tiny.jsonl", "'body'", "text")),
        (("--template", "{question}: {answer}"), ("data/tiny.jsonl", "'question'")),
        (("--template", "no column"), ("data/tiny.jsonl", "names no column")),
        (("--protect", "data/held_out.jsonl"), ("--protect", "held_out.jsonl", "'text'")),
        (("--protect", "data/none.jsonl"), ("--protect", "none.jsonl", "no such file")),
    ],
)
def test_a_corpus_that_is_read_otherwise(refused, words, names):
    refused("profile", "model", "--data", "data/tiny.jsonl", "--out", "new/s", *words, names=names)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("./none.jsonl", ("./none.jsonl", "no such file")),
        ("data", ("'data'", ".json")),  # json and jsonl
        ("empty", ("'empty'", "no files")),
        ("folder.jsonl", ("folder.jsonl",)),
        ("../place/model", ("../place/model", "not JSON")),
        ("pipe.jsonl", ("pipe.jsonl", "no regular file")),
        ("zero.txt", ("zero.txt", "no regular file")),
        ("loop.jsonl", ("loop.jsonl",)),
        ("locked/c.jsonl", ("locked/c.jsonl",)),
        ("owner/none", ("owner/none",)),
        ("http://x.org/c.jsonl", ("http://x.org/c.jsonl", "no such file")),
        ("~nobody-is-called-so/c.jsonl", ("~nobody-is-called-so", "no such file")),
    ],
)
def test_what_is_no_corpus(place, refused, data, names):
    (place / "empty").mkdir()
    (place / "folder.jsonl").mkdir()
    os.mkfifo(place / "pipe.jsonl")
    (place / "zero.txt").symlink_to("/dev/zero")
    (place / "loop.jsonl").symlink_to("loop.jsonl")
    (place / "locked").symlink_to("run.yaml")
    refused("profile", "model", "--data", data, "--out", "new/scores", names=names)


def test_texts_without_a_token(place, refused, monkeypatch):
    """A tokenizer whose normaliser drops every letter makes nothing but padding."""
    path = place / "model/tokenizer.json"
    keys = json.loads(path.read_text("utf-8"))
    keys["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    path.write_text(json.dumps(keys), encoding="utf-8")
    one_line = lines(*({"text": row["text"].replace("\n", " ")} for row in ROWS))
    (place / "data/tiny.jsonl").write_text(one_line, encoding="utf-8")
    told = ("data/tiny.jsonl", "no token")
    refused("profile", "model", "--data", "data/tiny.jsonl", "--out", "new/scores", names=told)
    refused("run", "run.yaml", *FAKE, names=("run.yaml: ", "tiny.jsonl", "no token"))


def test_texts_of_unknown_tokens(place, refused):
    path = place / "model/tokenizer.json"
    keys = json.loads(path.read_text("utf-8"))
    keys["pre_tokenizer"] = None
    path.write_text(json.dumps(keys), encoding="utf-8")
    (place / "data/tiny.jsonl").write_text(lines(*[{"text": "\u4f60\u597d"}] * 24), "utf-8")
    told = ("data/tiny.jsonl", "unknown token")
    refused("profile", "model", "--data", "data/tiny.jsonl", "--out", "new/scores", names=told)
    refused("run", "run.yaml", *FAKE, names=("run.yaml: ", "tiny.jsonl", "unknown token"))


@pytest.mark.parametrize("letter", ["1 + 1 = 2. ", "\u20ac", "\x00"])
def test_a_row_of_10_mb_is_cut_like_any_other(place, ptl, letter):
    long = {"text": letter * (10 * 2**20 // len(letter.encode()))}
    (place / "data/tiny.jsonl").write_text(lines(*ROWS, long), encoding="utf-8")
    words = ("--samples", "30", "--max-length", "32", "--out", "scores_of_long")
    code, _, err = ptl("profile", "model", "--data", "data/tiny.jsonl", *words)
    assert code == 0, err
    assert (place / "scores_of_long").is_file()


def test_of_a_row_of_10_mb_the_tokenizer_reads_the_beginning():
    text = "1 + 1 = 2. " * 10**6
    read = []
    encode_texts([text], lambda texts, **keys: read.extend(texts) or {"input_ids": [[1]]},
                 max_length=32)  # fmt: skip
    assert len(read[0]) < 10**5
    assert text.startswith(read[0])


@pytest.mark.parametrize(
    ("where", "value", "names"),
    [
        ("dataset", "none", ("dataset", "'none'", "tiny")),
        ("dataset", "tiny,none", ("dataset", "'none'")),
        ("dataset", ["tiny", "none"], ("dataset", "'none'")),
        ("dataset", "../tiny", ("dataset", "'../tiny'")),
        ("dataset", "ti\nny", ("dataset", "'ti\\nny'")),
        ("dataset", "", ("dataset", "is missing")),
        ("dataset", ..., ("dataset", "is missing")),
        ("dataset_dir", "nowhere", ("dataset_dir", "'nowhere'", "dataset_info.json")),
        ("dataset_dir", "da\nta", ("dataset_dir", "da\\nta")),
    ],
)
def test_llamafactory_with_a_data_set_that_is_not(
    place, refused_by_llamafactory, where, value, names
):
    write_yaml(place / "wrong.yaml", changed(LLAMAFACTORY, where, value))
    refused_by_llamafactory("wrong.yaml", names=("wrong.yaml: ", *names))


INFOS = {
    "no JSON": ("{", ("dataset_info.json", "JSON")),
    "not UTF-8": (b'{"tiny": "\xff"}', ("dataset_info.json",)),
    "in depth": ("[" * 10**5, ("dataset_info.json", "nested")),
    "a list": ("[]", ("dataset_info.json", "mapping")),
    "null": ("null", ("dataset_info.json", "mapping")),
    "an entry that is text": ('{"tiny": "tiny.jsonl"}', ("dataset", "'tiny'")),
    "an entry that is null": ('{"tiny": null}', ("dataset", "'tiny'")),
    "a file that is not there": ('{"tiny": {"file_name": "none.jsonl"}}', ("none.jsonl",)),
    "a file without text": ('{"tiny": {"file_name": "blank.jsonl"}}', ("blank.jsonl", "empty")),
    "a file that is a pipe": ('{"tiny": {"file_name": "pipe.jsonl"}}', ("pipe.jsonl",)),
    "a file without a name": ('{"tiny": {"file_name": ["tiny.jsonl"]}}', ("dataset", "file_name")),
    "a file with a NUL": ('{"tiny": {"file_name": "a\\u0000.jsonl"}}', ("dataset", "file_name")),
}  # fmt: skip


@pytest.mark.parametrize("case", INFOS)
def test_llamafactory_with_a_list_of_data_sets_that_is_none(place, refused_by_llamafactory, case):
    text, names = INFOS[case]
    raw = text if isinstance(text, bytes) else text.encode()
    (place / "data/dataset_info.json").write_bytes(raw)
    (place / "data/blank.jsonl").write_text("\n \n")
    os.mkfifo(place / "data/pipe.jsonl")
    refused_by_llamafactory("train.yaml", names=("train.yaml: ", *names))
