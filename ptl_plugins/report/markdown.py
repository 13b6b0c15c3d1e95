"""A report as Markdown; whatever stands in a cell stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ptl_plugins.report.document import Block, Code, Column, Document, Picture, Section, Table

SPECIAL = re.compile(r"([\\`*<>\[\]|&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
"""What Markdown would read; an underscore inside a word it does not."""


def to_markdown(document: Document) -> str:
    """Return the whole report; pictures are files beside it."""
    blocks = [f"# {escape(document.title)}", *(escape(line) for line in document.status)]
    for section in document.sections:
        blocks.extend(_section(section))
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Return text in one line that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.heading)}"
    for block in section.blocks:
        yield _block(block)
    if section.notes:
        yield "\n".join(f"- {escape(note)}" for note in section.notes)


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Picture():
            return f"![{escape(block.title)}]({block.file})"
        case Code():
            return _code(block.text)


def _table(table: Table) -> str:
    lines = [
        _line(column.heading for column in table.columns),
        "| " + " | ".join(_rule(column) for column in table.columns) + " |",
        *(_line(row) for row in table.rows),
    ]
    return "\n".join(lines)


def _line(cells: Iterator[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _rule(column: Column) -> str:
    return "---" if column.left else "---:"


def _code(text: str) -> str:
    """Fence the text with more backticks than stand in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"
