"""Reasoning text from a local file or a data set of the hub, as token sequences."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READERS = {".json": "json", ".parquet": "parquet"}
"""Suffixes that `datasets` reads; `.jsonl` and `.txt` take a line at a time."""
SUFFIXES = (".jsonl", ".json", ".parquet", ".txt")


def read_texts(
    data: str,
    *,
    column: str = "text",
    template: str | None = None,
    split: str = "train",
    number: int,
    seed: int = 0,
) -> list[str]:
    """Return `number` texts, chosen by `seed` among all that are not empty.

    Args:
        data: a json, jsonl, parquet or txt file (a line is a text), a folder of such files of
            one kind, or a data set of the hub; `owner/name:config` names its configuration.
        column: the column that holds the text.
        template: in place of `column`, text with the names of columns in braces.
        split: the split of a data set of the hub.
        number: how many; where there are fewer, all of them.
        seed: of the choice.

    Raises:
        PTLError: there is no such data, no such column, or no text in it.
    """
    where = f"data '{data}'"
    form = _Form(where, column, template)
    texts = [text for text in map(form.text, _rows(data, split)) if text.strip()]
    if not texts:
        raise PTLError(f"{where}: holds no text; give other data")
    chosen = random.Random(seed).sample(range(len(texts)), min(number, len(texts)))
    return [texts[index] for index in sorted(chosen)]


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[list[int]]:
    """Return the token ids of `texts`, with the tokenizer's own special tokens, cut off."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return [list(ids) for ids in encoded]


def data_digest(sequences: Sequence[Sequence[int]]) -> str:
    """Return the SHA-256 of token sequences, in order."""
    return hashlib.sha256(json.dumps([list(ids) for ids in sequences]).encode()).hexdigest()


class _Form:
    """How a row becomes a text."""

    def __init__(self, where: str, column: str, template: str | None) -> None:
        self.where = where
        self.template = f"{{{column}}}" if template is None else template
        self.columns = re.findall(r"{(\w+)}", self.template)
        if not self.columns:
            raise PTLError(f"{where}: template {template!r} names no column in braces")

    def text(self, row: Mapping[str, Any]) -> str:
        for column in self.columns:
            if column not in row:
                raise PTLError(
                    f"{self.where}: has no column '{column}'; it has {', '.join(row)}; "
                    "name one with --column, or several in a --template"
                )
        # not str.format: braces in a text or a template mean nothing else
        return re.sub(
            r"{(\w+)}", lambda found: _plain(row[found[1]]), self.template
        )


def _plain(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _rows(data: str, split: str) -> Iterable[Mapping[str, Any]]:
    path = Path(data).expanduser()
    files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES) if path.is_dir() else [path]
    kinds = {file.suffix for file in files}
    if path.is_dir() and len(kinds) != 1:
        raise PTLError(
            f"data '{data}': the folder holds {', '.join(sorted(kinds)) or 'no'} files; one kind "
            f"of {', '.join(SUFFIXES)} is needed"
        )
    if not path.exists():
        if path.suffix in SUFFIXES or data.startswith((".", "/", "~")):
            raise PTLError(f"data '{data}': no such file")
        return _hub(data, split)
    if kinds <= {".jsonl", ".txt"}:
        return (row for file in files for row in _lines(file))
    if not kinds <= set(READERS):
        raise PTLError(f"data '{data}': not one of {', '.join(SUFFIXES)}")
    return _load(data, READERS[kinds.pop()], data_files=[str(f) for f in files], split="train")


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a jsonl or txt file."""
    with file.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if file.suffix == ".txt":
                    yield {"text": line.rstrip("\n")}
                elif line.strip():
                    yield _object(file, number, line)
        except UnicodeDecodeError as error:
            raise PTLError(f"data '{file}': is not UTF-8 ({error})") from error


def _object(file: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PTLError(f"data '{file}': line {number} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise PTLError(f"data '{file}': line {number} is not a JSON object")
    return row


def _hub(data: str, split: str) -> Iterable[Mapping[str, Any]]:
    name, _, config = data.partition(":")
    return _load(data, name, config or None, split=split)


def _load(data: str, *names: str | None, **options: Any) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(*names, **options)
    except Exception as error:  # every failure of `datasets` means the same to the user
        reason = str(error).splitlines()[0] if str(error) else ""
        raise PTLError(
            f"data '{data}': no such file, and not readable as a data set "
            f"({type(error).__name__}: {reason})"
        ) from error
    return rows
