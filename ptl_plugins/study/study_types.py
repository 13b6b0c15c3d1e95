"""The values of a study: its runs, its tables, and one job for each run and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.study.models import Axis, Keep


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A recipe with other keys, for some seeds."""

    name: str
    recipe: Path
    seeds: tuple[int, ...]
    changes: Mapping[str, Any]
    """Dotted keys of the recipe and their values: those of the study, then the run's own."""
    teachers: tuple[str, ...]
    """Runs whose finished model a value names as `{NAME}`."""
    after: tuple[str, ...]
    """All runs that have to be finished first, the teachers included."""
    keep: Keep


@dataclass(frozen=True, kw_only=True)
class RunsTable:
    """A row for each run."""

    title: str
    runs: tuple[str, ...]
    metrics: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LinesTable:
    """Lines whose points are runs, or the rounds of one run."""

    title: str
    x: Axis
    lines: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study file that was read and checked."""

    path: Path
    title: str
    notes: tuple[str, ...]
    runs: Mapping[str, StudyRun]
    controls: tuple[str, ...]
    """Runs that cut nothing, one for each number of documents."""
    pairs: tuple[tuple[str, str], ...]
    primary: tuple[str, ...]
    """The results by which the pairs are judged in words."""
    tables: tuple[RunsTable | LinesTable, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run with one seed."""

    run: StudyRun
    seed: int
    folder: Path
    """`FOLDER/NAME/seed_K`: the merged recipe, logs, state and the run folder."""

    @property
    def label(self) -> str:
        """How lines name it: ptl, seed 1."""
        return f"{self.run.name}, seed {self.seed}"

    @property
    def recipe(self) -> Path:
        """The merged recipe."""
        return self.folder / "recipe.yaml"

    @property
    def run_folder(self) -> Path:
        """The run folder, `output_dir` or `run_dir` of the merged recipe."""
        return self.folder / "run"
