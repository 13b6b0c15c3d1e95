"""The report's main tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ptl_plugins.report.document import Document, Section, Table

ANY_WIDTH = 10_000
"""Columns in which every table finds room."""
GAP = 3
"""Between two columns of a table."""


def print_report(document: Document, console: Console) -> None:
    """Print how far the runs are, and the sections that are meant for the terminal."""
    for line in document.status:
        print_line(line, console)
    for section in document.sections:
        if section.in_terminal:
            _print(section, console)


def print_line(text: str, console: Console) -> None:
    """Print text as it is: no markup, no colours, broken by the terminal alone."""
    console.print(Text(text), soft_wrap=True)


def _print(section: Section, console: Console) -> None:
    for block in section.blocks:
        if isinstance(block, Table):
            print_line(f"\n{section.heading}", console)
            for piece in _pieces(block, console):
                _print_whole(_table(piece), console)
    for note in section.notes:
        print_line(f"- {note}", console)


def _pieces(table: Table, console: Console) -> Iterator[Table]:
    """Yield the table in pieces that a terminal has room for, each with the first column."""
    number = len(table.columns)
    widths = [_width(table, index) for index in range(number)]
    start = 1
    while start < number:
        stop = start + 1
        while stop < number and _fits([widths[0], *widths[start : stop + 1]], console):
            stop += 1
        yield _columns(table, [0, *range(start, stop)])
        start = stop


def _fits(widths: Sequence[int], console: Console) -> bool:
    """Whether columns stand side by side; a file has room for all."""
    return not console.is_terminal or sum(widths) + GAP * (len(widths) - 1) <= console.width


def _width(table: Table, index: int) -> int:
    cells = [*table.columns[index].heading.split("\n"), *(row[index] for row in table.rows)]
    return max(cell_len(cell) for cell in cells)


def _columns(table: Table, indices: Sequence[int]) -> Table:
    return Table(
        columns=tuple(table.columns[index] for index in indices),
        rows=tuple(tuple(row[index] for index in indices) for row in table.rows),
    )


def _print_whole(table: RichTable, console: Console) -> None:
    """Print a table as wide as it is: a narrower one would break its cells."""
    room = console.options.update(width=ANY_WIDTH, max_width=ANY_WIDTH)
    width = console.measure(table, options=room).maximum
    before, console.width = console.width, max(console.width, width)
    try:
        console.print(table)
    finally:
        console.width = before


def _table(table: Table) -> RichTable:
    shown = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns:
        heading = Text(column.heading)
        if column.left:
            shown.add_column(heading, no_wrap=True)
        else:
            shown.add_column(heading, no_wrap=True, justify="right")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown
