"""A study file becomes a `Study`; everything that is wrong in it is told at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.given_path import given_path
from ptl_plugins.recipe_errors import explain
from ptl_plugins.study.models import RunModel, StudyModel, TableModel
from ptl_plugins.study.references import references
from ptl_plugins.study.study_types import LinesTable, RunsTable, Study, StudyRun
from ptl_plugins.yaml_file import read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
CONTROL = "control"
OURS = ("seed", "ptl.seed", "output_dir", "run_dir")
"""Keys that the study sets for each job."""


class StudyError(PTLError):
    """A study file is wrong; one line per problem, each with file and key."""


def read_study(path: Path) -> Study:
    """Read and check a study file; its recipes are not opened.

    Raises:
        PTLError: the file is wrong; one line per problem.
    """
    keys, _ = read_yaml(path)
    try:
        model = StudyModel.model_validate(keys)
    except pydantic.ValidationError as error:
        raise _refused(path, explain(error, StudyModel, prefix="")) from None
    if problems := [*_run_problems(model), *_name_problems(model), *_title_problems(model)]:
        raise _refused(path, problems)
    runs = {name: _run(name, run, model, path.parent) for name, run in model.runs.items()}
    if circle := _circle(runs):
        raise _refused(path, [f"runs.{circle[0]}: waits for itself: {' -> '.join(circle)}"])
    return Study(
        path=path,
        title=model.title,
        notes=tuple(model.notes),
        runs=runs,
        controls=tuple(name for name in _controls(model) if name in runs),
        pairs=tuple((first, second) for first, second in model.pairs),
        primary=tuple(model.primary),
        tables=tuple(_table(table) for table in model.tables),
    )


def _controls(model: StudyModel) -> list[str]:
    return [CONTROL] if model.controls is None else model.controls


def _refused(path: Path, lines: Iterable[str]) -> StudyError:
    return StudyError("\n".join(f"{path}: {line.lstrip('.')}" for line in lines))


def _run(name: str, run: RunModel, model: StudyModel, folder: Path) -> StudyRun:
    changes = {**model.set, **run.set}
    teachers = references(run.set)
    return StudyRun(
        name=name,
        recipe=folder / given_path(run.recipe),
        seeds=tuple(run.seeds or model.seeds),
        changes=changes,
        teachers=teachers,
        after=tuple(dict.fromkeys([*run.after, *teachers])),
        keep=run.keep or model.keep,
    )


def _table(table: TableModel) -> RunsTable | LinesTable:
    metrics = None if table.metrics is None else tuple(table.metrics)
    title, notes = table.title, tuple(table.notes)
    if table.lines is None or table.x is None:
        runs = tuple(table.runs or ())
        return RunsTable(title=title, runs=runs, metrics=metrics, notes=notes)
    lines = {name: tuple(runs) for name, runs in table.lines.items()}
    return LinesTable(title=title, x=table.x, lines=lines, metrics=metrics, notes=notes)


def _run_problems(model: StudyModel) -> Iterator[str]:
    """Yield names that are no folder's, seeds given twice, and keys that the study sets."""
    yield from _our_keys("set", model.set)
    yield from _twice("seeds", model.seeds)
    for name in references(model.set):
        yield f"set: '{{{name}}}' is a run's model, and {name} has these keys too; set it in a run"
    for name, run in model.runs.items():
        if not NAME.fullmatch(name):
            yield f"runs.{name}: a name is letters, digits, '_', '-' and '.', as of a folder"
        yield from _our_keys(f"runs.{name}.set", run.set)
        yield from _twice(f"runs.{name}.seeds", run.seeds or [])
        if name in references(run.set):
            yield f"runs.{name}.set: '{{{name}}}' is the run's own model; name another run"


def _title_problems(model: StudyModel) -> Iterator[str]:
    """Yield titles that would give two plots one file."""
    stems = [file_stem(table.title) for table in model.tables]
    for index, stem in enumerate(stems):
        if stem in stems[:index]:
            first, title = stems.index(stem), model.tables[index].title
            yield f"tables.{index}.title: '{title}' is that of tables.{first} too; give it another"


def file_stem(text: str) -> str:
    """Return a title as the beginning of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _our_keys(where: str, changes: Mapping[str, Any]) -> Iterator[str]:
    for key in changes:
        if key.rpartition(":")[2] in OURS:
            yield f"{where}.{key}: is set by the study; seeds go into 'seeds', folders to --folder"


def _twice(where: str, seeds: Sequence[int]) -> Iterator[str]:
    if len(set(seeds)) < len(seeds):
        yield f"{where}: {seeds} has a seed twice; give each once"


def _name_problems(model: StudyModel) -> Iterator[str]:
    """Yield runs that are named and do not exist."""
    for where, names in _named(model):
        for name in names:
            if name not in model.runs:
                known = ", ".join(model.runs)
                yield f"{where}: no run '{name}'{did_you_mean(name, model.runs)}; runs: {known}"


def _named(model: StudyModel) -> Iterator[tuple[str, Iterable[str]]]:
    for name, run in model.runs.items():
        yield f"runs.{name}.after", run.after
        yield f"runs.{name}.set", references(run.set)
    yield "controls", model.controls or []
    for index, pair in enumerate(model.pairs):
        yield f"pairs.{index}", pair
    for index, table in enumerate(model.tables):
        yield f"tables.{index}.runs", table.runs or ()
        for line, runs in (table.lines or {}).items():
            yield f"tables.{index}.lines.{line}", runs


def _circle(runs: Mapping[str, StudyRun]) -> list[str] | None:
    """Return names of runs that wait for each other, the first one twice, or None."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        for before in runs[name].after:
            if found := visit(before, [*way, name]):
                return found
        done.add(name)
        return None

    return next((found for name in runs if (found := visit(name, []))), None)
