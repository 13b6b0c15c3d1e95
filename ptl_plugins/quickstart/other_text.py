"""Text of another kind than the problems: English prose on Python, from Python's own help.

`pydoc_data.topics` is what `help("while")` prints, part of every Python. Paragraphs of prose are
taken from it, without code, grammar, tables and titles. Its words differ between Python versions:
losses on it are comparable within one (the manifest of a run names it).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ptl_plugins import durable
from ptl_plugins.errors import PTLError

FILE = "other_text.jsonl"
SHORTEST, LONGEST = 200, 2000
"""Characters of a text."""
PARAGRAPH_END = re.compile(r"\n\s*\n")
PROSE = re.compile(r"[A-Z].*[.:]", re.DOTALL)
"""Code, grammar and tables begin otherwise, titles end otherwise."""
NO_PROSE = re.compile(r"::=|>>>|\|  |Traceback \(most recent")


def write_other_text(folder: Path, *, number: int, seed: int) -> None:
    """Write `other_text.jsonl`: `number` texts of 200 to 2000 characters under the key `text`.

    The same arguments give the same bytes in the same Python version. No text occurs twice.

    Raises:
        PTLError: the number is negative or more than there are, or Python's topics are missing.
    """
    texts = passages(_topics())
    if not 0 <= number <= len(texts):
        raise PTLError(
            f"the other text cannot be written: number: {number} is not 0 to {len(texts)}, as "
            "many as this Python's help topics give"
        )
    chosen = sorted(random.Random(seed).sample(range(len(texts)), number))
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"text": texts[index]}) + "\n" for index in chosen)
    durable.write_text(folder / FILE, "".join(rows))


def passages(topics: Iterable[str]) -> list[str]:
    """Return texts of successive paragraphs of prose, each as short as `SHORTEST` allows.

    Topics repeat each other; a paragraph is taken where it occurs first.
    """
    seen: set[str] = set()
    return [text for topic in topics for text in _joined(_prose(topic, seen))]


def _joined(paragraphs: Iterable[str]) -> Iterator[str]:
    """Join paragraphs until a text is long enough; what is left over at the end is dropped."""
    text = ""
    for paragraph in paragraphs:
        text = f"{text}\n\n{paragraph}" if text else paragraph
        if len(text) >= SHORTEST:
            if len(text) <= LONGEST:
                yield text
            text = ""


def _prose(topic: str, seen: set[str]) -> Iterator[str]:
    """Yield the paragraphs of prose that were not seen before, each as one line."""
    for paragraph in PARAGRAPH_END.split(topic):
        line = " ".join(paragraph.split())
        if PROSE.fullmatch(line) and not NO_PROSE.search(paragraph) and line not in seen:
            seen.add(line)
            yield line


def _topics() -> list[str]:
    """Return the topics in the order of their names."""
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise PTLError(
            "this Python lacks its own help topics (module pydoc_data); install its whole "
            "standard library"
        ) from error
    return [topics[name] for name in sorted(topics)]
