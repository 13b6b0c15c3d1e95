"""Files that are no plain, small YAML mapping: bombs, duplicates, tags, encodings, sizes."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest
import yaml
from folder_tree import folder_tree
from good_recipes import FAKE, LLAMAFACTORY, RUN, STUDY

RECIPE = yaml.safe_dump(dict(RUN), sort_keys=False)
TRAIN = yaml.safe_dump(dict(LLAMAFACTORY), sort_keys=False)
TOO_MANY = 120_000
MOST_MEMORY = 64 << 20
MOST_SECONDS = 20


def laughs(levels: int, each: int = 9) -> str:
    """Return anchors of which each one repeats the one before."""
    lines = ["x0: &x0 [lol]"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * each)}]")
    return "\n".join(lines) + "\n"


def merged_laughs(levels: int) -> str:
    """Return mappings of which each one merges the one before twice."""
    lines = ["x0: &x0 {a: 1}"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} {{<<: [*x{level - 1}, *x{level - 1}]}}")
    return "\n".join(lines) + "\n"


def nested_by_anchors(levels: int) -> str:
    """Return anchors that lie in each other, in a file without any depth."""
    return "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}]\n" for n in range(1, levels))


BOTH = {
    # bombs
    "billion laughs": (laughs(10), ("values", "anchors")),
    "a thousand laughs in the settings": (
        laughs(7) + "recover:\n- backend: fake\n  settings: {does: *x6}\n", ("values",)),
    "a bomb of merges": (merged_laughs(40), ("values",)),
    "an anchor in itself": ("a: &a [*a]\n", ("line 1", "in itself")),
    "an anchor in itself, deeper": ("a: &a {b: {c: [1, *a]}}\n", ("line 1", "in itself")),
    "an anchor that is not there": ("a: *b\n", ("line 1", "undefined alias")),
    "deep by anchors": (nested_by_anchors(500), ("nested deeper",)),
    # duplicates
    "a key twice": ("model: a\nmodel: b\n", ("line 2", "key 'model' is given twice")),
    "a key twice, deeper": ("data:\n  path: a\n  path: b\n", ("line 3", "'path' is given twice")),
    "a key twice, in braces": ("data: {path: a, path: b}\n", ("line 1", "'path' is given twice")),
    "a merge twice": ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", ("line 4", "'<<' is given twice")),
    # syntax
    "a tab": ("model: a\n\tdata: b\n", ("line 2", "'\\t'")),
    "a tab within": ("data:\n\tpath: x\n", ("line 2",)),
    "an open bracket": ("schedule: [1, 2\n", ("line 2",)),
    "an open quote": ("model: 'a\n", ("line ", "end of stream")),
    "two colons": ("model: a: b\n", ("line 1",)),
    "two documents": ("model: a\n---\nmodel: b\n", ("line 2", "document")),
    "a percent sign": ("%model: a\n", ("line 1",)),
    "another version": ("%YAML 3.0\n---\nmodel: a\n", ("version",)),
    "an at sign": ("model: @a\n", ("line 1",)),
    "a key that is a list": ("? [a, b]\n: c\n", ("line 1",)),
    "a key that is a mapping": ("{a: 1}: 2\n", ("line 1",)),
    "a merge of text": ("<<: text\n", ("line 1", "merg")),
    "a key of two lines": ('"a\\nb": 1\n', ("line 1", "'a\\nb'")),
    "an escape of the terminal": ('"a\\e[2J": 1\n', ("line 1", "'a\\x1b[2J'")),
    # tags
    "a python object": ("a: !!python/object/apply:os.system ['touch pwned']\n", ("line 1", "tag")),
    "a python name": ("a: !!python/name:os.system\n", ("line 1", "tag")),
    "a python module": ("a: !!python/module:antigravity\n", ("line 1", "tag")),
    "a python tuple": ("a: !!python/tuple [1, 2]\n", ("line 1", "tag")),
    "an unknown tag": ("a: !secret x\n", ("line 1", "tag")),
    "a tag of another program": ("a: !ENV ${HOME}\n", ("line 1", "tag")),
    "a whole number that is none": ("a: !!int many\n", ("not valid YAML",)),
    "an empty number": ("a: !!int ''\n", ("not valid YAML",)),
    "a number without digits": ("a: 0x_\n", ("not valid YAML",)),
    "truth that is none": ("a: !!bool perhaps\n", ("not valid YAML",)),
    "a moment that is none": ("a: !!timestamp now\n", ("not valid YAML",)),
    "a day that is none": ("a: 2024-99-99\n", ("not valid YAML",)),
    "bytes that are none": ("a: !!binary 'a'\n", ("not valid YAML",)),
    "a mapping that is text": ("a: !!map text\n", ("not valid YAML",)),
    "a list that is text": ("a: !!seq text\n", ("not valid YAML",)),
    "an ordered mapping that is text": ("a: !!omap text\n", ("not valid YAML",)),
    "a set that is text": ("a: !!set text\n", ("not valid YAML",)),
    "a text that is a list": ("a: !!str [1]\n", ("not valid YAML",)),
    # sizes
    "a number of 5000 digits": (f"seed: {'9' * 5000}\n", ("line 1", "number", "5000")),
    "a number of 5000 hex digits": (f"seed: 0x{'f' * 5000}\n", ("line 1", "number", "5002")),
    "a number of base 60": (f"seed: 1{':59' * 5000}\n", ("line 1", "number", "15001")),
    "brackets in brackets": ("a: " + "[" * 5000 + "\n", ("line 1", "nested deeper")),
    "braces in braces": ("a: " + "{a: " * 5000 + "\n", ("line 1", "nested deeper")),
    "indented deeply": ("".join(f"{' ' * n}a:\n" for n in range(200)), ("nested deeper",)),
    "100 levels": ("a: " + "[" * 100 + "]" * 100 + "\n", ("nested deeper",)),
    "too many values": ("a: [" + "1," * TOO_MANY + "]\n", ("values",)),
}  # fmt: skip
"""What is put in front of a good recipe of either door."""
ALONE = {
    "an empty file": (b"", ("holds no keys",)),
    "a comment": (b"# nothing\n", ("holds no keys",)),
    "null": (b"null\n", ("holds no keys",)),
    "a list": (b"- model\n- data\n", ("holds no keys",)),
    "a word": (b"model\n", ("holds no keys",)),
    "a number": (b"3\n", ("holds no keys",)),
    "an empty mapping": (b"{}\n", ("wrong.yaml",)),
    "a set": (b"!!set {model, data}\n", ("wrong.yaml",)),
    "JSON of a list": (b"[1, 2]\n", ("holds no keys",)),
    "not UTF-8": (RECIPE.encode() + b"title: \xff\xfe\n", ("not UTF-8",)),
    "Latin-1": (RECIPE.encode() + "title: \xe9\xe8\n".encode("latin-1"), ("not UTF-8",)),
    "UTF-16": (RECIPE.encode("utf-16"), ("not UTF-8",)),
    "cut in a letter": (RECIPE.encode() + "title: \u20ac".encode()[:-1], ("not UTF-8",)),
    "a NUL": (RECIPE.encode() + b"title: a\x00b\n", ("not valid YAML",)),
    "only NULs": (b"\x00" * 4096, ("not valid YAML",)),
    "a bell": (RECIPE.encode() + b"title: a\x07b\n", ("not valid YAML",)),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ("not UTF-8",)),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.", ("not UTF-8",)),
    "a zip": (b"PK\x03\x04" + bytes(100), ("not valid YAML",)),
    "a byte order mark within": (b"model: a\n\xef\xbb\xbfdata: b\n", ("not valid YAML",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BOTH)
def test_ptl_refuses_what_stands_in_a_recipe(place, refused, case):
    text, names = BOTH[case]
    with_directive = text if text.startswith("%") else text + "".join(_rest(text, RUN))
    (place / "wrong.yaml").write_text(with_directive, encoding="utf-8")
    refused("validate", "wrong.yaml", *FAKE, names=("wrong.yaml: ", *names))
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("case", BOTH)
def test_llamafactory_does_not_see_what_stands_in_a_recipe(place, refused_by_llamafactory, case):
    text, names = BOTH[case]
    with_directive = text + "ptl:\n" if text.startswith("%") else text
    rest = "" if text.startswith("%") else "".join(_rest(text, LLAMAFACTORY))
    (place / "wrong.yaml").write_text(with_directive + rest, encoding="utf-8")
    refused_by_llamafactory("wrong.yaml", names=("wrong.yaml: ", *names))
    assert not (place / "pwned").exists()


def _rest(text, keys):
    """Yield a good recipe's lines, without the keys that stand in `text` already."""
    for key, value in keys.items():
        if not any(line.startswith(f"{key}:") for line in text.splitlines()):
            yield yaml.safe_dump({key: value}, sort_keys=False)


@pytest.mark.parametrize("case", ALONE)
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_ptl_refuses_a_file_that_is_no_recipe(place, refused, command, case):
    content, names = ALONE[case]
    (place / "wrong.yaml").write_bytes(content)
    refused(command, "wrong.yaml", names=("wrong.yaml: ", *names))


@pytest.mark.parametrize("case", [c for c in ALONE | BOTH if c != "an empty mapping"])
def test_ptl_refuses_a_study_that_is_none(place, refused, case):
    content, names = ALONE[case] if case in ALONE else BOTH[case]
    rest = yaml.safe_dump(dict(STUDY)) if isinstance(content, str) and "%" not in content else ""
    raw = content if isinstance(content, bytes) else (content + rest).encode()
    (place / "wrong.yaml").write_bytes(raw)
    refused("study", "wrong.yaml", "--folder", "out", names=("wrong.yaml: ", *names))


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize(
    ("name", "told"),
    [("data", "directory"), ("none.yaml", "No such file"), ("model/config.json/x", "directory"),
     ("loop", "symbolic links"), ("pipe", "no regular file"), ("/dev/zero", "no regular file")],
)  # fmt: skip
def test_ptl_refuses_what_is_no_file(place, refused, command, name, told):
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "pipe")
    refused(command, name, names=(f"{name}: ", told))


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_ptl_refuses_a_study_that_is_no_file(place, refused, name):
    os.mkfifo(place / "pipe")
    refused("study", name, "--folder", "out", names=(f"{name}: ", "no regular file"))


@pytest.mark.parametrize("content", ["holes", "text", "one line", "one list"])
@pytest.mark.parametrize("door", ["ptl", "llamafactory"])
def test_a_file_of_100_mb_is_refused_before_it_is_read(
    place, refused, refused_by_llamafactory, door, content
):
    head = {"ptl": RECIPE, "llamafactory": TRAIN}[door].encode()
    with (place / "wrong.yaml").open("wb") as file:
        file.write(head)
        if content == "holes":
            file.truncate(100 << 20)
        for _ in range(100 if content != "holes" else 0):
            file.write({"text": b"# words\n", "one line": b"######\n"[:-1], "one list": b"-1234\n"}
                       [content] * (1 << 17))  # fmt: skip
    call = {"ptl": refused, "llamafactory": refused_by_llamafactory}[door]
    words = ("validate",) if door == "ptl" else ()
    import llamafactory.cli  # noqa: F401  # not what is measured

    tracemalloc.start()
    started = time.monotonic()
    try:
        call(*words, "wrong.yaml", names=("wrong.yaml: ", "larger than"))
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        assert time.monotonic() - started < MOST_SECONDS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_any_line_end_are_fine(place, ptl, mark, end):
    (place / "fine.yaml").write_bytes(mark + RECIPE.replace("\n", end).encode())
    before = folder_tree(place)
    assert ptl("validate", "fine.yaml", *FAKE) == (0, "fine.yaml: ok, 2 rounds\n", "")
    assert folder_tree(place) == before


def test_anchors_and_merges_of_a_sane_size_are_fine(place, ptl):
    text = RECIPE.replace("schedule:\n- amount", "schedule:\n- &first\n  amount")
    assert "&first" in text or "unit" in text
    keys = {**RUN, "schedule": []}
    phases = "schedule:\n- &first {unit: neuron, amount: 8}\n- *first\n- {<<: *first, amount: 4}\n"
    rest = yaml.safe_dump({key: value for key, value in keys.items() if key != "schedule"})
    (place / "fine.yaml").write_text(phases + rest, encoding="utf-8")
    assert ptl("validate", "fine.yaml", *FAKE) == (0, "fine.yaml: ok, 3 rounds\n", "")
