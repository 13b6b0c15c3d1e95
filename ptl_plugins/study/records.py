"""Reads the stored records of a study: the only thing that its page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pydantic

from ptl_plugins.errors import PTLError
from ptl_plugins.registry import Registry
from ptl_plugins.report.runs import Run, read_runs
from ptl_plugins.run_folder import MANIFEST
from ptl_plugins.study.jobs import job_of
from ptl_plugins.study.run_state import Status
from ptl_plugins.study.study_types import Study
from ptl_plugins.study.training_facts import Training

OUTCOME, RECIPE = "outcome.json", "recipe.yaml"
Quantity = Literal["documents", "tokens", "steps"]


@dataclass(frozen=True, kw_only=True)
class RecordedOutcome:
    """`outcome.json`: what a run's own records do not tell."""

    status: Status
    tries: int
    seconds: float
    """Of the tries that ended by themselves, with the programs' start."""
    data: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of what it read, by path."""
    reason: str | None = None
    """Why it failed."""
    trainings: tuple[Training, ...] = ()
    """Of the finished rounds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SeedResult:
    """What is on record of one run with one seed."""

    name: str
    seed: int
    outcome: RecordedOutcome | None
    """None: it has not run."""
    run: Run | None
    """None: it left no run folder."""

    @property
    def finished(self) -> Run | None:
        """The run, if it was run to its end: what a table's numbers are of."""
        is_finished = self.outcome is not None and self.outcome.status == "finished"
        return self.run if is_finished and self.run and self.run.last else None

    def trained(self, quantity: Quantity, *, at_final_size: bool = False) -> int | None:
        """Return how much was trained on, or None where a round does not tell.

        Args:
            quantity: what is counted.
            at_final_size: only in the rounds whose model has the size of the last one's.
        """
        run = self.finished
        if run is None or run.last is None or self.outcome is None:
            return None
        size = run.last.num_parameters
        sizes = {record.round: record.num_parameters for record in run.rounds}
        rounds = [r for r in self.outcome.trainings if not at_final_size or sizes[r.round] == size]
        found = [getattr(training, quantity) for training in rounds]
        return None if None in found or not found else sum(found)

    @property
    def missing(self) -> str | None:
        """Why it has no numbers, or None."""
        if self.finished is not None:
            return None
        if self.outcome is None:
            return "has not run"
        progress = f" ({self.run.progress})" if self.run else ""
        if self.outcome.status == "failed":
            return f"failed{progress}: {self.outcome.reason}"
        return f"is not finished{progress}"


OUTCOMES = pydantic.TypeAdapter(RecordedOutcome)


def read_records(
    study: Study, folder: Path, registry: Registry
) -> dict[str, tuple[SeedResult, ...]]:
    """Return what is on record of every run of the study, by name and in the order of its seeds.

    Raises:
        PTLError: the folder is not there, or a record is damaged.
    """
    if not folder.is_dir():
        raise PTLError(f"--from {folder}: no such folder; 'ptl study --record' makes one")
    return {
        name: tuple(_read(name, seed, job_of(run, seed, folder).folder, registry) for seed in seeds)
        for name, run in study.runs.items()
        for seeds in [run.seeds]
    }


def finished_runs(results: Sequence[SeedResult]) -> list[Run]:
    """Return the finished runs among the results."""
    return [run for result in results if (run := result.finished) is not None]


def _read(name: str, seed: int, folder: Path, registry: Registry) -> SeedResult:
    path = folder / OUTCOME
    try:
        outcome = OUTCOMES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return SeedResult(name=name, seed=seed, outcome=None, run=None)
    except (OSError, pydantic.ValidationError):
        raise PTLError(f"{path}: is damaged; record the run again") from None
    has_run = (folder / MANIFEST).is_file()
    run = read_runs([folder], registry)[0] if has_run else None
    return SeedResult(name=name, seed=seed, outcome=outcome, run=run)
