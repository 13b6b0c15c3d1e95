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
from ptl_plugins.given_path import given_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUFFIXES = (".jsonl", ".json", ".parquet", ".txt")
SHORT_CHARACTERS, CHARACTERS_PER_TOKEN = 1 << 16, 64
"""Of a text, so many characters are looked at, however few tokens are wanted; of a token, so many
are the most that are counted on."""
PLACE = r"{(\w+)}"
"""A column's name in a template."""


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
        data: a json (an array of objects, or lines of them), jsonl, parquet or txt file (a line
            is a text), a folder of such files of one kind, or a data set of the hub;
            `owner/name:config` names its configuration.
        column: the column that holds the text.
        template: in place of `column`, text with the names of columns in braces.
        split: the split of a data set of the hub.
        number: how many; where there are fewer, all of them.
        seed: of the choice.

    Raises:
        PTLError: there is no such data, no such column, or no text in it.
    """
    texts = read_all_texts(data, column=column, template=template, split=split)
    chosen = random.Random(seed).sample(range(len(texts)), min(number, len(texts)))
    return [texts[index] for index in sorted(chosen)]


def read_all_texts(
    data: str, *, column: str = "text", template: str | None = None, split: str = "train"
) -> list[str]:
    """Return every text that is not empty, in order; arguments as in `read_texts`.

    Raises:
        PTLError: there is no such data, no such column, or no text in it.
    """
    where = f"data '{data}'"
    form = _Form(where, column, template)
    rows = enumerate(read_rows(data, split), start=1)
    texts = [text for number, row in rows if (text := form.checked(row, number)).strip()]
    if not texts:
        raise PTLError(f"{where}: holds no text; give other data")
    return texts


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[list[int]]:
    """Return the token ids of `texts`, with the tokenizer's own special tokens, cut off."""
    beginnings = [beginning(text, max_length) for text in texts]
    encoded = tokenizer(beginnings, truncation=True, max_length=max_length)["input_ids"]
    return [list(ids) for ids in encoded]


def beginning(text: str, max_length: int) -> str:
    """Return of a long text what can become its first `max_length` tokens.

    Tokenizers read the whole text before they cut it: a row of 10 MB takes gigabytes.
    """
    return text[: max(SHORT_CHARACTERS, CHARACTERS_PER_TOKEN * max_length)]


def data_digest(sequences: Sequence[Sequence[int]]) -> str:
    """Return the SHA-256 of token sequences, in order."""
    return hashlib.sha256(json.dumps([list(ids) for ids in sequences]).encode()).hexdigest()


class _Form:
    """How a row becomes a text."""

    def __init__(self, where: str, column: str, template: str | None) -> None:
        self.where, self.template = where, template
        self.columns = [column] if template is None else re.findall(PLACE, template)
        if not self.columns:
            raise PTLError(f"{where}: template {template!r} names no column in braces")

    def checked(self, row: Mapping[str, Any], number: int) -> str:
        """Return the text of row `number`, which every tokenizer can take."""
        text = self.text(row)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            escape = text[error.start].encode("ascii", "backslashreplace").decode()
            raise PTLError(
                f"{self.where}: row {number}: holds {escape}, half of a character, which is no "
                "text; mend or remove this row"
            ) from None
        return text

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the row's text; it is empty where all its columns are."""
        for column in self.columns:
            if column not in row:
                has = ", ".join(name if name.isprintable() else repr(name) for name in row)
                raise PTLError(
                    f"{self.where}: has no column '{column}'; it has {has}; "
                    "name one of them as the column, or several in a template"
                )
        plain = {column: _plain(row[column]) for column in self.columns}
        if not any(text.strip() for text in plain.values()):
            return ""
        if self.template is None:
            return plain[self.columns[0]]
        # not str.format: braces in a text or a template mean nothing else
        return re.sub(PLACE, lambda found: plain[found[1]], self.template)


def _plain(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def read_rows(data: str, split: str = "train") -> Iterable[Mapping[str, Any]]:
    """Return the rows of `data`, as `read_texts` finds it, with all their columns.

    Raises:
        PTLError: there is no such data, or it cannot be read.
    """
    path = given_path(data)
    if not path.exists():
        if path.suffix in SUFFIXES or data.startswith((".", "/", "~")):
            raise PTLError(f"data '{data}': no such file")
        name, _, config = data.partition(":")
        trouble = (
            f"data '{data}': no such file{_writer(path)}, and not readable as a data set of the hub"
        )
        return _load(trouble, name, config or None, split=split)
    files = _files(data, path)
    if files[0].suffix == ".parquet":
        names = [str(file) for file in files]
        trouble = f"data '{data}': not readable as parquet"
        return _load(trouble, "parquet", data_files=names, split="train")
    return (row for file in files for row in _read(file))


def _writer(path: Path) -> str:
    """Return which command writes a corpus of that name, or an empty string."""
    from ptl_plugins.corpora.catalogue import CORPORA

    if path.name not in CORPORA:
        return ""
    return f" (ptl data {path.name} --out {path.parent} writes it)"


def _files(data: str, path: Path) -> list[Path]:
    """Return the file `path`, or the files of the folder `path`, all of one kind."""
    allowed = ", ".join(SUFFIXES)
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise PTLError(f"data '{data}': not one of {allowed}")
        _require_an_end(path)
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        raise PTLError(
            f"data '{data}': the folder holds {', '.join(kinds) or 'no'} files; one kind of "
            f"{allowed} is needed"
        )
    return files


def _require_an_end(file: Path) -> None:
    """Refuse a pipe, which would wait, and a device, which would not end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise PTLError(f"data '{file}': is no regular file; give one of {', '.join(SUFFIXES)}")


def _read(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a json, jsonl or txt file."""
    _require_an_end(file)
    try:
        with file.open(encoding="utf-8-sig") as stream:
            if file.suffix == ".txt":
                yield from ({"text": line.rstrip("\n")} for line in stream)
            elif file.suffix == ".json":
                yield from _json(file, stream.read())
            else:
                yield from _lines(file, stream)
    except UnicodeDecodeError as error:
        raise PTLError(f"data '{file}': is not UTF-8 ({error})") from error
    except OSError as error:
        raise PTLError(f"data '{file}': cannot be read ({error.strerror})") from error


def _lines(file: Path, stream: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _object(_parse(file, line, f"line {number}"), file, f"line {number}")


def _json(file: Path, text: str) -> Iterator[Mapping[str, Any]]:
    if not text.lstrip().startswith("["):
        yield from _lines(file, text.split("\n"))
    else:
        for number, row in enumerate(_parse(file, text, "it"), start=1):
            yield _object(row, file, f"entry {number}")


def _parse(file: Path, text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PTLError(f"data '{file}': {what} is not JSON ({error})") from error
    except RecursionError:
        raise PTLError(f"data '{file}': {what} is nested too deeply to be read") from None


def _object(row: Any, file: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise PTLError(f"data '{file}': {what} is not a JSON object")
    return row


def _load(trouble: str, *names: str | None, **options: Any) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(*names, **options)
    except Exception as error:  # every failure of `datasets` means the same to the user
        cause = error.__cause__ or error  # a "DatasetGenerationError" alone says nothing
        reason = str(cause).splitlines()[0] if str(cause) else ""
        raise PTLError(f"{trouble} ({type(cause).__name__}: {reason})") from error
    return rows
