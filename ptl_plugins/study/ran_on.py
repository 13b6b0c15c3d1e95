"""Where the runs of a study ran, and with what: each set of facts once, with its runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ptl_plugins.report.document import Section, Table, number_columns, text_column
from ptl_plugins.report.facts import HARDWARE, as_text
from ptl_plugins.report.formats import MISSING
from ptl_plugins.report.runs import Run
from ptl_plugins.study.records import SeedResult
from ptl_plugins.study.results import StudyResults
from ptl_plugins.study.study_types import Study, StudyRun

Facts = tuple[tuple[str, str], ...]


def ran_on_section(results: StudyResults) -> Section:
    """Return the tables of hardware and versions."""
    found = [result for result in results.of(list(results.results)) if result.run]
    blocks = tuple(_table(found, facts) for facts in (_hardware, _versions))
    return Section(heading="Where it ran", blocks=blocks if found else ())


def read_section(results: StudyResults) -> Section | None:
    """Return the files that the runs read with their digests, or None where nothing tells."""
    found = [result for result in results.of(list(results.results)) if result.outcome]
    groups: dict[tuple[str, str], list[SeedResult]] = {}
    for result in found:
        for fact in result.outcome.data.items() if result.outcome else ():
            groups.setdefault(fact, []).append(result)
    rows = tuple((*fact, _labels(groups[fact], len(found))) for fact in sorted(groups))
    columns = tuple(text_column(heading) for heading in ("file", "SHA-256", "runs"))
    section = Section(heading="What it read", blocks=(Table(columns=columns, rows=rows),))
    return section if rows else None


def asked_section(results: StudyResults) -> Section:
    """Return what the study asked for: recipes, changed keys, seeds, how many are finished."""
    columns = (
        *(text_column(heading) for heading in ("run", "recipe", "set", "seeds", "needs")),
        *number_columns("finished"),
    )
    study = results.study
    rows = tuple(
        (*_asked(study, run), f"{len(results.finished([name]))} of {len(run.seeds)}")
        for name, run in study.runs.items()
    )
    return Section(heading="What was asked for", blocks=(Table(columns=columns, rows=rows),))


def _asked(study: Study, run: StudyRun) -> tuple[str, ...]:
    changes = (f"{key}: {_plain(value)}" for key, value in run.changes.items())
    return (
        run.name,
        os.path.relpath(run.recipe, study.path.parent).replace(os.sep, "/"),
        "; ".join(changes) or MISSING,
        ", ".join(map(str, run.seeds)),
        ", ".join(run.after) or MISSING,
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _table(found: Sequence[SeedResult], facts: Callable[[Run], Facts]) -> Table:
    """Return a row for each set of facts; a column for each fact, and one for the runs."""
    groups: dict[Facts, list[SeedResult]] = {}
    for result in found:
        if result.run:
            groups.setdefault(facts(result.run), []).append(result)
    names = list(dict.fromkeys(name for group in groups for name, _ in group))
    rows = tuple(
        (*(dict(group).get(name, MISSING) for name in names), _labels(members, len(found)))
        for group, members in groups.items()
    )
    return Table(columns=tuple(text_column(name) for name in (*names, "runs")), rows=rows)


def _hardware(run: Run) -> Facts:
    facts = _mapping(run.manifest.get("hardware"))
    shown = {key.replace("_", " "): as_text(facts.get(key)) for key in HARDWARE}
    if facts.get("accelerators") == []:
        shown["accelerators"] = "none"
    return (*shown.items(), ("processes", as_text(run.manifest.get("num_ranks"))))


def _versions(run: Run) -> Facts:
    versions = {key: as_text(v) for key, v in _mapping(run.manifest.get("versions")).items()}
    return (*versions.items(), ("git commit", as_text(run.manifest.get("git_commit"))))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _labels(members: Sequence[SeedResult], number: int) -> str:
    """Return the runs with their seeds: all, or ptl (1, 2), control (1)."""
    if len(members) == number:
        return "all"
    return ", ".join(_by_name(members))


def _by_name(members: Sequence[SeedResult]) -> Iterator[str]:
    for name in dict.fromkeys(member.name for member in members):
        seeds = ", ".join(str(member.seed) for member in members if member.name == name)
        yield f"{name} ({seeds})"
