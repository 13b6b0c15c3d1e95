"""The page of a study, made of its file and its stored records alone: the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace
from ptl_plugins.errors import PTLError
from ptl_plugins.registry import Registry
from ptl_plugins.report.document import Document, Section
from ptl_plugins.report.markdown import escape, to_markdown
from ptl_plugins.study.answers import answer_section
from ptl_plugins.study.line_table import LinePicture, line_section
from ptl_plugins.study.pair_table import pair_section
from ptl_plugins.study.ran_on import asked_section, ran_on_section, read_section
from ptl_plugins.study.records import read_records
from ptl_plugins.study.result_table import HOW_TO_READ, result_section
from ptl_plugins.study.results import StudyResults, missing_lines
from ptl_plugins.study.study_types import LinesTable, RunsTable, Study

EVERYTHING = "All runs"


def write_page(study: Study, records: Path, page: Path, registry: Registry) -> None:
    """Write the page, and its pictures beside it.

    Raises:
        PTLError: the records are not there or damaged, or the page cannot be written.
    """
    results = StudyResults(study=study, results=read_records(study, records, registry))
    text, pictures = page_of(results)
    if page.is_dir():
        raise PTLError(f"--page {page}: is a folder; name a file, such as {page / 'results.md'}")
    from ptl_plugins.study.line_drawing import draw_lines

    files = {picture.file: draw_lines(picture.plot) for picture in pictures}
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for name, content in {**files, page.name: text.encode()}.items():
            temporary = page.parent / (name + TEMPORARY_SUFFIX)
            temporary.write_bytes(content)
            replace(temporary, page.parent / name)
    except OSError as error:
        raise PTLError(f"--page {page}: cannot be written ({error.strerror})") from error


def page_of(results: StudyResults) -> tuple[str, list[LinePicture]]:
    """Return the page as Markdown, and the pictures that it shows."""
    all_pictures: list[LinePicture] = []
    head = Document(title=results.study.title, status=tuple(_status(results)), sections=())
    blocks = [to_markdown(head)]
    for section, pictures in _sections(results):
        blocks.append(_markdown(section))
        blocks += [f"![{escape(picture.title)}]({picture.file})\n" for picture in pictures]
        all_pictures += pictures
    return "\n".join(blocks), all_pictures


def _sections(results: StudyResults) -> Iterator[tuple[Section, tuple[LinePicture, ...]]]:
    if answers := answer_section(results):
        yield answers, ()
    if missing := missing_lines(results):
        yield Section(heading="Runs without numbers", blocks=(), notes=tuple(missing)), ()
    for table in results.study.tables or (_everything(results.study),):
        if isinstance(table, LinesTable):
            found = line_section(results, table)
            yield found.section, found.pictures
        else:
            yield result_section(results, table), ()
    if pairs := pair_section(results):
        yield pairs, ()
    yield Section(heading="How to read it", blocks=(), notes=HOW_TO_READ), ()
    yield ran_on_section(results), ()
    if read := read_section(results):
        yield read, ()
    yield asked_section(results), ()


def _everything(study: Study) -> RunsTable:
    return RunsTable(title=EVERYTHING, runs=tuple(study.runs), metrics=None, notes=())


def _status(results: StudyResults) -> Iterator[str]:
    yield from results.study.notes
    found = list(results.of(list(results.results)))
    finished = sum(result.finished is not None for result in found)
    yield f"{finished} of {len(found)} runs are finished (a run: one recipe with one seed)."


def _markdown(section: Section) -> str:
    """Return one section alone."""
    document = Document(title="", status=(), sections=(section,))
    return to_markdown(document).removeprefix("# \n\n")
