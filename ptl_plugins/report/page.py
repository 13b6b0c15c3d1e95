"""A report as one HTML page that needs nothing else: no script, no link, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape

from ptl_plugins.report.document import Block, Code, Column, Document, Picture, Section, Table

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --back: #ffffff; --line: #d5d9de;
  --head: #f1f3f5; --soft: #5c6570; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --back: #16181b; --line: #3a3f46; --head: #22262b; --soft: #9aa3ad; }
}
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; color: var(--text);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { background: var(--head); white-space: pre; }
th.text, td.text { text-align: left; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: #ffffff; border: 1px solid var(--line); }
figcaption, .notes { color: var(--soft); font-size: 0.9rem; }
pre { overflow-x: auto; padding: 0.8rem; background: var(--head); border: 1px solid var(--line); }
"""


def to_page(document: Document, pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        document: the report.
        pictures: PNG bytes of its pictures by file name.
    """
    title = escape(document.title)
    body = [f"<h1>{title}</h1>", *(f"<p>{escape(line)}</p>" for line in document.status)]
    for section in document.sections:
        body.extend(_section(section, pictures))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style></head>",
            *("<body>", *body, "</body>", "</html>", ""),
        ]
    )


def _section(section: Section, pictures: Mapping[str, bytes]) -> Iterator[str]:
    yield f"<h2>{escape(section.heading)}</h2>"
    for block in section.blocks:
        yield _block(block, pictures)
    if section.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
        yield f'<ul class="notes">{items}</ul>'


def _block(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Table():
            return _table(block)
        case Picture():
            return _figure(block, pictures[block.file])
        case Code():
            return f"<pre><code>{escape(block.text.rstrip())}</code></pre>"


def _table(table: Table) -> str:
    head = "".join(_cell("th", c.heading, c) for c in table.columns)
    rows = [
        "".join(_cell("td", cell, c) for cell, c in zip(row, table.columns, strict=True))
        for row in table.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        '<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cell(tag: str, text: str, column: Column) -> str:
    kind = ' class="text"' if column.left else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _figure(picture: Picture, png: bytes) -> str:
    data, title = base64.b64encode(png).decode("ascii"), escape(picture.title)
    return (
        f'<figure><img alt="{title}" src="data:image/png;base64,{data}">'
        f"<figcaption>{title}</figcaption></figure>"
    )
