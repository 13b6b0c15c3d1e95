"""The documentation says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptl_plugins.speed.protocol import DEFAULT, KEYS, MEASURES, PAPER, PROTOCOLS

PAGE = (Path(__file__).parents[3] / "docs" / "speed.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


@pytest.mark.parametrize("name", [*MEASURES, *KEYS, "protocol", "baseline"])
def test_every_measure_and_every_setting_has_a_row(name):
    assert name in ROWS


@pytest.mark.parametrize("key", [key for key in KEYS if key != "measures"])
def test_the_values_of_both_protocols_are_those_of_the_code(key):
    assert ROWS[key][:2] == [str(getattr(DEFAULT, key)), str(getattr(PAPER, key))]


def test_both_protocols_and_the_papers_caveat_are_explained():
    assert all(f"`{name}`" in PAGE for name in PROTOCOLS)
    assert "a model that stops earlier looks faster" in PAGE
    assert "2.6x" in PAGE
