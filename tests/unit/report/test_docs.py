"""docs/report.md shows what the command writes."""

from __future__ import annotations

from pathlib import Path

from ptl_plugins.report.contents import build_document
from ptl_plugins.report.intervals import sample_size
from ptl_plugins.report.markdown import to_markdown
from ptl_plugins.report.orders import BY_GROUPS
from ptl_plugins.report.write import FOLDER, MARKDOWN, PAGE

TEXT = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")


def test_the_files_and_the_default_folder_are_named():
    for name in (MARKDOWN, PAGE, "curve_METRIC.png", "step_size.png"):
        assert f"| `{name}` |" in TEXT
    assert f"into `{FOLDER}` of the first `RUN_DIR`" in TEXT


def test_the_example_tables_have_the_columns_of_the_code(write_run, read, steps_right):
    def metrics(index):
        return steps_right(20)

    one = write_run("one", metrics=metrics, pruned=metrics)
    for folders in ([one], [one, write_run("two", metrics=metrics)]):
        lines = to_markdown(build_document(read(*folders))).splitlines()
        head = next(index for index, line in enumerate(lines) if line.startswith("| "))
        assert "\n".join(lines[head : head + 2]) in TEXT


def test_the_names_of_samples_are_those_of_the_code():
    for name in ("num_NAMEs", "NAME_num_problems", "num_NAME_problems"):
        assert f"`{name}`" in TEXT
        assert sample_size("NAME_accuracy", {name: 1.0}, num_tasks=2) == name


def test_the_orders_of_the_paper_are_named():
    for order in (*list(BY_GROUPS.values())[:2], "alternating"):
        assert f"`{order}`" in TEXT


def test_the_example_of_the_recovery_time_has_the_columns_of_the_code(write_run, read):
    text = to_markdown(build_document(read(write_run()))).partition("## Recovery time\n\n")[2]
    assert "\n".join(text.splitlines()[:2]) in TEXT
