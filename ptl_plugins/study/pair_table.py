"""The claims of a study: two runs over equal seeds, with an interval."""

from __future__ import annotations

from collections.abc import Iterator

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.study.cells import difference_cell, interval_cell, p_value_cell
from ptl_plugins.study.result_table import missing_notes
from ptl_plugins.study.results import StudyResults
from ptl_plugins.study.spread import paired

HEADINGS = ("seeds", "difference", "95% interval", "p")
NOTES = (
    "difference: the first run minus the second, the mean over the seeds that both finished, +- "
    "the standard deviation of the differences.",
    "95% interval, p: Student's t of these paired differences, two-sided, as if they were normal; "
    "none with one seed. Each line is a test of its own: nothing is corrected for their number.",
)


def pair_section(results: StudyResults) -> Section | None:
    """Return the table of the pairs, or None where the study claims nothing."""
    pairs = results.study.pairs
    if not pairs:
        return None
    rows = [row for first, second in pairs for row in _rows(results, first, second)]
    columns = (text_column("runs"), text_column("metric"), *number_columns(*HEADINGS))
    missing = missing_notes(results, [name for pair in pairs for name in pair])
    return Section(
        heading="Paired differences",
        blocks=(Table(columns=columns, rows=tuple(rows)),),
        notes=(*NOTES, *missing),
    )


def _rows(results: StudyResults, first: str, second: str) -> Iterator[tuple[str, ...]]:
    metrics = results.metrics([first, second], None)
    for metric in metrics:
        found = paired(results.values(first, metric), results.values(second, metric))
        yield (
            f"{first} - {second}",
            metric.name,
            str(len(found.seeds) if found else 0),
            difference_cell(metric, found),
            interval_cell(metric, found),
            p_value_cell(found),
        )
    if not metrics:
        yield (f"{first} - {second}", "none is on record", "0", "-", "-", "-")
