"""What a report is made of, before it is Markdown, a page or a terminal's table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ptl_plugins.report.plots import Bars, Curves


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A heading; numbers stand on the right."""

    heading: str
    left: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of plain text, a cell for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A plot and the file it is written to."""

    file: str
    title: str
    plot: Curves | Bars


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Text that is shown as it is."""

    text: str


Block = Table | Picture | Code


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, what follows it, and remarks at the end."""

    heading: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    in_terminal: bool = False
    """Whether the command prints its tables as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A whole report."""

    title: str
    status: tuple[str, ...]
    """How far each run is, and what the reader has to know first."""
    sections: tuple[Section, ...]

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures in their order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Picture))


def text_column(heading: str) -> Column:
    """Return a column of text."""
    return Column(heading=heading, left=True)


def number_columns(*headings: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(heading=heading) for heading in headings]
