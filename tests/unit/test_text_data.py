"""Text from files of every kind, and one line to the user for everything that can be wrong."""

from __future__ import annotations

import datetime
import json

import datasets
import pandas
import pytest
from tokenizers.processors import TemplateProcessing

from ptl_plugins.errors import PTLError
from ptl_plugins.testing import tiny_tokenizer
from ptl_plugins.text_data import data_digest, encode_texts, read_texts

TEXTS = [
    "one",
    "two",
    "three {text} %s {} {0} \\1",
    "vier: \u00e4\u00f6\u00fc \u2028 \u4e94",
    "five",
]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


@pytest.fixture(autouse=True)
def no_network_and_no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def written(path, content):
    """Write text, bytes or rows (as parquet) and return the path as a string."""
    if isinstance(content, list):
        pandas.DataFrame(content).to_parquet(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return str(path)


def read(data, **keys):
    return read_texts(data, **{"number": 99, **keys})


def refused(action, *parts):
    with pytest.raises(PTLError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
    return True


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", "\n" + LINES.replace("\n", "\r\n\r\n") + "\n"),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\n " + json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n"),
        ("a.json", LINES),
        ("a.parquet", ROWS),
        ("a.txt", "\n".join(TEXTS) + "\n"),
    ],
)
def test_every_kind_of_file_gives_its_texts_in_order(tmp_path, name, content):
    assert read(written(tmp_path / name, content)) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".txt"])
def test_a_folder_gives_its_files_in_order_of_name(tmp_path, suffix):
    for name, rows in (("b", ROWS[2:]), ("a", ROWS[:2])):
        content = "\n".join(json.dumps(row) for row in rows)
        if suffix == ".txt":
            content = "\n".join(row["text"] for row in rows)
        written(tmp_path / (name + suffix), rows if suffix == ".parquet" else content)
    written(tmp_path / "README.md", "not text to read")
    assert read(str(tmp_path)) == TEXTS


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "a.txt", "at home")
    assert read("~/a.txt") == ["at home"]


@pytest.mark.parametrize("column", ["answer", "an answer", "the-answer", "a.b", "{answer}", "1"])
def test_a_column_may_have_any_name(tmp_path, column):
    data = written(tmp_path / "a.jsonl", json.dumps({"text": "x", column: "y"}))
    assert read(data, column=column) == ["y"]


def test_a_template_takes_several_columns_and_leaves_other_braces(tmp_path):
    row = {"q": "What is {a}, \\boxed{2} or \\1?", "a": "{q}"}
    data = written(tmp_path / "a.jsonl", json.dumps(row))
    template = "{{}} { q } Q: {q}\nA: {a} {q}"
    (text,) = read(data, template=template, column="ignored")
    assert text == f"{{{{}}}} {{ q }} Q: {row['q']}\nA: {{q}} {row['q']}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (["\u00e4", {"b": None}], '["\u00e4", {"b": null}]'),
        ({"role": "user"}, '{"role": "user"}'),
    ],
)
def test_values_that_are_no_text_are_written_as_json(tmp_path, value, text):
    assert read(written(tmp_path / "a.jsonl", json.dumps({"text": value}))) == [text]


def test_values_that_json_does_not_know_are_written_too(tmp_path):
    data = written(tmp_path / "a.parquet", [{"text": datetime.datetime(2020, 1, 2)}])
    assert read(data) == ['"2020-01-02 00:00:00"']


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_empty_rows_are_dropped_before_the_choice(tmp_path, suffix):
    rows = [{"text": text} for text in ("", "a", None, "  \n\t", "b", "")]
    lines = "\n".join(json.dumps(row) for row in rows)
    data = written(tmp_path / f"a{suffix}", rows if suffix == ".parquet" else lines)
    assert read(data, number=2) == ["a", "b"]


def test_a_template_is_empty_where_all_its_columns_are(tmp_path):
    rows = [{"q": "", "a": " "}, {"q": None, "a": None}, {"q": "1+1", "a": ""}]
    data = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(data, template="Q: {q} A: {a}") == ["Q: 1+1 A: "]


def test_the_seed_decides_which_and_the_file_decides_the_order(tmp_path):
    texts = [f"text {number:03d}" for number in range(200)]
    data = written(tmp_path / "a.txt", "\n".join(texts))
    chosen = [read(data, number=20, seed=seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    for texts_chosen in chosen:
        assert len(set(texts_chosen)) == 20
        assert texts_chosen == sorted(texts_chosen)
        assert set(texts_chosen) <= set(texts)
    assert chosen[0] != texts[:20]
    assert read(data, number=200) == texts


def test_where_there_are_fewer_all_are_taken(tmp_path):
    assert read(written(tmp_path / "a.txt", "a\nb"), number=9) == ["a", "b"]


@pytest.mark.parametrize("name", ["no.jsonl", "no.parquet", "./no", "/no/such", "~/no", "../no:x"])
def test_a_missing_file_is_named(name):
    assert refused(lambda: read(name), f"data '{name}': no such file")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", LINES), ("a.json", json.dumps(ROWS)), ("a.parquet", ROWS), ("a.txt", "x")],
)
def test_a_missing_column_is_named_beside_those_there_are(tmp_path, name, content):
    data = written(tmp_path / name, content)
    there = "it has text" if name == "a.txt" else "it has id, text"
    assert refused(lambda: read(data, column="answer"), "has no column 'answer'", there)
    assert refused(lambda: read(data, template="{text} {answer}"), "has no column 'answer'")


def test_a_template_without_a_column_is_refused(tmp_path):
    data = written(tmp_path / "a.txt", "x")
    assert refused(lambda: read(data, template="no { } here"), "'no { } here'", "in braces")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.txt", b"fine\n\xff\xfe", "is not UTF-8"),
        ("a.jsonl", b'{"text": "\xe4"}', "is not UTF-8"),
        ("a.json", b'[{"text": "\xe4"}]', "is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": ', "line 3 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n["text"]', "line 2 is not a JSON object"),
        ("a.json", '[{"text": "a"}, 7]', "entry 2 is not a JSON object"),
        ("a.json", '[{"text": "a"}', "is not JSON"),
        ("a.json", '{"text": "a"}\n{"text"}', "line 2 is not JSON"),
        ("a.parquet", b"nothing of the kind", "not readable as parquet (ArrowInvalid"),
        ("a.txt", "", "holds no text"),
        ("a.jsonl", '{"text": " "}', "holds no text"),
        ("a.json", "[]", "holds no text"),
        ("a.csv", "text\na", "not one of .jsonl, .json, .parquet, .txt"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, name, content, part):
    data = written(tmp_path / name, content)
    assert refused(lambda: read(data), data, part)


def test_a_folder_without_text_or_of_two_kinds_is_refused(tmp_path):
    assert refused(lambda: read(str(tmp_path)), "the folder holds no files")
    for name in ("a.jsonl", "b.txt"):
        written(tmp_path / name, LINES)
    assert refused(lambda: read(str(tmp_path)), "the folder holds .jsonl, .txt files; one kind")


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, kind):
    if kind == "link":
        (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    else:
        (tmp_path / "a.jsonl").mkdir()
    assert refused(lambda: read(str(tmp_path)), "a.jsonl", "cannot be read")


@pytest.mark.parametrize("name", ["openai/gsm8k", "openai/gsm8k:main", "nowhere"])
def test_a_name_of_the_hub_without_network_is_one_line(name):
    assert refused(lambda: read(name), f"data '{name}': no such file, and not readable", "hub")


def test_a_data_set_of_the_hub_is_read_by_name_configuration_and_split(monkeypatch):
    calls = []

    def load(*args, **kwargs):
        calls.append((args, kwargs))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("owner/name:main", split="test") == TEXTS
    assert read("owner/name") == TEXTS
    assert calls == [
        (("owner/name", "main"), {"split": "test"}),
        (("owner/name", None), {"split": "train"}),
    ]


def test_what_a_data_set_really_failed_for_is_told_in_one_line(monkeypatch):
    def load(*args, **kwargs):
        try:
            raise ValueError("row 3 has no end\nand much more")
        except ValueError as error:
            raise RuntimeError("An error occurred") from error

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert refused(lambda: read("owner/name"), "(ValueError: row 3 has no end)")


def test_texts_are_encoded_with_the_tokenizers_special_tokens_and_cut_off():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    texts = ["Question: What is 1 + 2?", "12"]
    whole = encode_texts(texts, tokenizer, max_length=100)
    assert [ids[0] for ids in whole] == [tokenizer.bos_token_id] * 2
    assert [tokenizer.decode(ids[1:]) for ids in whole] == texts
    short = encode_texts(texts, tokenizer, max_length=len(whole[1]))
    assert short == [whole[0][: len(whole[1])], whole[1]]


def test_the_digest_is_that_of_the_tokens_and_their_order():
    digest = data_digest([[1, 2], [3]])
    assert digest == data_digest(((1, 2), (3,)))
    assert len(digest) == 64
    others = [[[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [[12], [3]], [[1, 2]], []]
    assert len({digest, *map(data_digest, others)}) == 7


def test_half_a_character_is_told_with_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b \\ud800 c"}\n', encoding="utf-8")
    with pytest.raises(PTLError, match=r"row 2: holds \\ud800, half of a character"):
        read_texts(str(path), number=2)
