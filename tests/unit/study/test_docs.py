"""docs/study.md says what a study file may hold, and its example is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from ptl_plugins.study.models import Axis, RunModel, StudyModel, TableModel
from ptl_plugins.study.study_file import read_study

PAGE = (Path(__file__).parents[3] / "docs" / "study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prefix", "model"), [("", StudyModel), ("runs.NAME.", RunModel), ("tables[].", TableModel)]
)
def test_every_key_is_in_the_table(prefix, model):
    for name in model.model_fields.keys() - {"runs" if not prefix else "", "tables"}:
        assert f"| `{prefix}{name}` |" in PAGE


def test_every_axis_is_named():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `tables[].x` |"))
    assert all(f"`{axis}`" in row for axis in get_args(Axis))


def test_the_example_is_a_study(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    for missing in ("ptl_small, ", "once_small, "):  # the page is short
        text = text.replace(missing, "")
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    study = read_study(tmp_path / "study.yaml")
    assert study.runs["from_control"].after == ("control",)
    assert study.controls == ("control",)
