"""`ptl report`: reads the runs, draws, writes the files, prints the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace
from ptl_plugins.errors import PTLError
from ptl_plugins.registry import Registry
from ptl_plugins.report.contents import build_document
from ptl_plugins.report.document import Document
from ptl_plugins.report.markdown import to_markdown
from ptl_plugins.report.page import to_page
from ptl_plugins.report.runs import read_runs
from ptl_plugins.report.terminal import print_line, print_report

FOLDER = "report"
MARKDOWN, PAGE = "report.md", "report.html"


def run_report(
    folders: Sequence[Path], out: Path | None, registry: Registry, console: Console
) -> None:
    """Report on run folders: files below `out`, tables in the terminal.

    Args:
        folders: at least one run folder.
        out: None: `report` in the first run folder.
        registry: where the models' families are found, for FLOPs.
        console: where the tables are printed.

    Raises:
        PTLError: a folder is no run, a file of it is damaged, or `out` cannot be written;
            nothing is written then.
    """
    target = folders[0] / FOLDER if out is None else out
    _require_folder(target)
    document = build_document(read_runs(folders, registry))
    _write(target, render(document))
    print_report(document, console)
    print_line(f"\nwritten: {target / MARKDOWN}, {target / PAGE}", console)


def render(document: Document) -> dict[str, bytes]:
    """Return the files of a report by name: pictures first, what refers to them last."""
    from ptl_plugins.report.drawing import draw

    pictures = {picture.file: draw(picture.plot) for picture in document.pictures()}
    texts = {PAGE: to_page(document, pictures), MARKDOWN: to_markdown(document)}
    return {**pictures, **{name: text.encode() for name, text in texts.items()}}


def _require_folder(target: Path) -> None:
    for path in (target, *target.parents):
        if path.exists():
            if not path.is_dir():
                raise PTLError(f"--out {target}: {path} is a file; give a folder")
            return


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = target / (name + TEMPORARY_SUFFIX)
            temporary.write_bytes(content)
            replace(temporary, target / name)
    except OSError as error:
        raise PTLError(f"--out {target}: cannot be written ({error.strerror})") from error
