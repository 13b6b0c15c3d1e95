"""What docs/results says is what its stored records say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.shipped_recipes import STUDY, recipes_folder
from ptl_plugins.study.records import read_records
from ptl_plugins.study.results import StudyResults
from ptl_plugins.study.study_file import read_study
from ptl_plugins.study.study_page import page_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
README = recipes_folder() / "README.md"
PAGES = sorted(RESULTS.glob("*/page.md"))


def finished_recipes(page: Path) -> set[str]:
    """Return the recipes of which a finished run is on record, as recipes/README.md names them."""
    study = read_study(recipes_folder() / page.parent.name / STUDY)
    records = read_records(study, page.parent, build_registry(build_manager()))
    return {
        f"{page.parent.name}/{study.runs[name].recipe.name}"
        for name, results in records.items()
        if any(result.finished for result in results)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_recipe_is_told_as_run_where_a_record_shows_it(page):
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([^|]*) \|$", README.read_text(encoding="utf-8"), re.M)
    told = {name for name, status in rows if f"results/{page.parent.name}/page.md" in status}
    assert told == finished_recipes(page)


def test_there_is_a_page_of_the_miniature():
    assert [page.parent.name for page in PAGES] == ["mini"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_is_made_of_its_records_byte_for_byte(page):
    study = read_study(recipes_folder() / page.parent.name / STUDY)
    registry = build_registry(build_manager())
    results = StudyResults(study=study, results=read_records(study, page.parent, registry))
    assert page_of(results)[0] == page.read_text(encoding="utf-8")
