"""Markdown: the form of a report, and text that stays text."""

from __future__ import annotations

import pytest

from ptl_plugins.report.contents import build_document
from ptl_plugins.report.document import (
    Code,
    Document,
    Section,
    Table,
    number_columns,
    text_column,
)
from ptl_plugins.report.facts import as_text
from ptl_plugins.report.markdown import escape, to_markdown

GOLDEN = """\
# Report: run

2 of 2 rounds done.

## Rounds

| round | cut | layers | width | parameters | kept | FLOPs | cot_loss |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| 0 | original | 5 | 48 | 55,456 | 100.0% | 1.000 | 2.000 |
| 1 | 8 neurons by output_change | 5 | 40 | 51,616 | 93.1% | 0.919 | 2.125 |
| 2 | 1 layer by l2 | 4 | 40 | 44,576 | 80.4% | 0.770 | 2.250 |

- kept: parameters relative to the original; FLOPs: per token, relative to the original.

## Seconds

| round | profile | select | prune | recover | evaluate | total | PTL's share |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 0 | - | - | - | - | 1.0 | 1.0 | - |
| 1 | 2.0 | 0.5 | 0.5 | 9.0 | 1.0 | 13.0 | 25.0% |
| 2 | 2.0 | 0.5 | 0.5 | 9.0 | 1.0 | 13.0 | 25.0% |
| all | 4.0 | 1.0 | 1.0 | 18.0 | 3.0 | 27.0 | 25.0% |

- PTL's share: all steps but recover and the evaluations, relative to these steps and recover \
together; - where a step of it was not recorded.

## Recovery time

| round | stage | backend | devices | wall | device |
| ---: | ---: | --- | ---: | ---: | ---: |
| 1 | 0 | fake | 4 | 8 s | 32 s |
| 2 | 0 | fake | 4 | 8 s | 32 s |
| all |  |  |  | 16 s | 64 s |

- wall: of the stage's program, without the wait in a queue; device: wall times the devices, the \
processes that trained. A stage that was finished before the run was stopped keeps its time; tries \
that were cut short are not counted.

## Curves

![cot_loss over the rounds and the parameters (dashed: the original)](curve_cot_loss.png)

## Facts

| fact | run |
| --- | --- |
| run folder | FOLDER |
| model | MODEL |
| started | 2026-01-02T03:04:05Z |
| recipe file | recipe.yaml |
| seed | 0 |
| processes | 1 |
| git commit | - |
| plugins | builtin, steps |
| processor | A CPU |
| cores | 2 |
| memory gb | 4.0 |
| accelerators | none |
| version of python | 3.11.7 |
| version of torch | 2.11.0 |

## Recipe

```
seed: 0
```
"""


def test_the_whole_report_of_a_run(write_run, read, cuts, model):
    folder = write_run(
        cuts=(cuts.neurons, cuts.layer), metrics=lambda index: {"cot_loss": 2 + index / 8}
    )
    expected = GOLDEN.replace("FOLDER", escape(str(folder))).replace("MODEL", escape(str(model)))
    assert to_markdown(build_document(read(folder))) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("*a* `b` [c](d)", r"\*a\* \`b\` \[c\](d)"),
        ("two\nlines", "two lines"),
        ("cot_loss", "cot_loss"),
        ("_run_", r"\_run\_"),
        ("a\\", "a\\\\"),
        ("46.8% (41.0-52.6)", "46.8% (41.0-52.6)"),
    ],
)
def test_markdown_reads_nothing_into_text(text, shown):
    assert escape(text) == shown


def test_a_cell_cannot_break_its_table():
    table = Table(columns=(text_column("a\nb"), *number_columns("c")), rows=(("x|y\n| z |", "1"),))
    document = Document(
        title="t", status=(), sections=(Section(heading="h", blocks=(table,), notes=("n",)),)
    )
    assert to_markdown(document) == (
        "# t\n\n## h\n\n| a b | c |\n| --- | ---: |\n| x\\|y \\| z \\| | 1 |\n\n- n\n"
    )


def test_a_text_with_fences_is_fenced_with_more():
    code = Code(text="````\nx\n```\n")
    document = Document(title="t", status=(), sections=(Section(heading="h", blocks=(code,)),))
    assert to_markdown(document).endswith("`````\n````\nx\n```\n`````\n")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (0, "0"),
        (["a", "b"], "a, b"),
        ({"a": 1, "b": None}, "a 1, b -"),
    ],
)
def test_a_fact_as_text(value, text):
    assert as_text(value) == text


def test_facts_that_are_missing_are_dashes_and_unknown_ones_are_shown(write_run, read):
    facts = {"versions": "none", "git_commit": "abc123", "weather": {"sky": "blue"}}
    text = to_markdown(build_document(read(write_run(facts=facts))))
    for line in ("| git commit | abc123 |", "| seed | - |", "| processor | - |",
                 "| accelerators | - |", "| weather | sky blue |"):  # fmt: skip
        assert line in text
    assert text.endswith("## Recipe\n\n```\n-\n```\n")


def test_facts_of_several_runs_stand_side_by_side(write_run, read):
    one, two = write_run("one", facts={"seed": 1}), write_run("two", facts={"started": "now"})
    text = to_markdown(build_document(read(one, two)))
    assert "| fact | one | two |" in text
    assert "| started | - | now |" in text
    assert "| seed | 1 | - |" in text
