"""Reads run folders for a report: what was planned and what is recorded; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ptl_plugins.divergence import Failure, current_failure
from ptl_plugins.errors import PTLError, RunFolderError
from ptl_plugins.half_steps import in_smaller_steps, set_aside
from ptl_plugins.registry import Registry
from ptl_plugins.report.flops import flops_ratios
from ptl_plugins.run_folder import MANIFEST, RECORD, RunFolder
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import EvaluationTask, RoundRecord, RoundSpec

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the recipe measures."""

    tasks: tuple[EvaluationTask, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedRecipe:
    """What a report needs of the resolved recipe."""

    model: str
    family: str | None
    rounds: tuple[RoundSpec, ...]
    stages: tuple[StageSpec, ...]
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """What every `manifest.json` holds; its other facts are shown as they are."""

    recipe: PlannedRecipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run folder as it is read."""

    name: str
    path: Path
    recipe: PlannedRecipe
    manifest: Mapping[str, Any]
    records: tuple[RoundRecord, ...]
    """Of the original and of the finished rounds."""
    flops: Mapping[int, float]
    """By round, FLOPs per token relative to the original; empty where they are not known."""
    no_flops: str | None
    """Why they are not known."""
    failures: tuple[Failure, ...] = ()
    """Rounds that were taken in smaller steps, because their training diverged."""
    failed: Failure | None = None
    """Why the first round that is not finished failed, where it did."""

    @property
    def original(self) -> RoundRecord | None:
        """The record of round 0, or None before it is written."""
        return next((record for record in self.records if record.round == 0), None)

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """The records of the finished rounds."""
        return tuple(record for record in self.records if record.round > 0)

    @property
    def last(self) -> RoundRecord | None:
        """The record of the last finished round, or None before the first."""
        return self.rounds[-1] if self.rounds else None

    @property
    def is_finished(self) -> bool:
        """Whether every planned round is recorded."""
        return len(self.rounds) >= len(self.recipe.rounds)

    @property
    def num_tasks(self) -> int:
        """How many evaluators the recipe names."""
        return len(self.recipe.evaluation.tasks)

    @property
    def progress(self) -> str:
        """How far the run is: 2 of 5 rounds."""
        return f"{len(self.rounds)} of {len(self.recipe.rounds)} rounds"

    @property
    def label(self) -> str:
        """The name, with how far the run is where it is not finished."""
        return self.name if self.is_finished else f"{self.name} ({self.progress})"


MANIFESTS = TypeAdapter(ManifestFile)
RECORDS = TypeAdapter(RoundRecord)


def read_runs(folders: Sequence[Path], registry: Registry) -> tuple[Run, ...]:
    """Read run folders, named by the last parts of their paths that tell them apart.

    Args:
        folders: at least one.
        registry: where the models' families are found, for FLOPs.

    Raises:
        RunFolderError: a folder is no run, is given twice, or a file of it is damaged.
    """
    resolved = [folder.expanduser().resolve() for folder in folders]
    for index, folder in enumerate(folders):
        if resolved[index] in resolved[:index]:
            raise RunFolderError(f"{folder}: is given twice; give every run once")
    names = _names(resolved)
    pairs = zip(folders, names, strict=True)
    return tuple(_read(folder, name, registry) for folder, name in pairs)


def _read(folder: Path, name: str, registry: Registry) -> Run:
    manifest = _manifest_path(folder)
    recipe, records = _parse(manifest, MANIFESTS).recipe, _records(folder)
    failures = set_aside(folder)
    recipe = replace(recipe, rounds=in_smaller_steps(recipe.rounds, failures))
    flops, no_flops = _flops(folder, recipe, records, registry)
    return Run(
        name=name,
        path=folder,
        recipe=recipe,
        manifest=json.loads(manifest.read_bytes()),
        records=records,
        flops=flops,
        no_flops=no_flops,
        failures=failures,
        failed=current_failure(RunFolder(folder, writes=False)),
    )


def _manifest_path(folder: Path) -> Path:
    manifest = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise RunFolderError(f"{folder}: {what}; give a run folder, the output_dir of a run")
    if not manifest.is_file():
        raise RunFolderError(
            f"{folder}: is no run folder (it has no {MANIFEST}); give the output_dir of a run"
        )
    return manifest


def _flops(
    folder: Path, recipe: PlannedRecipe, records: Sequence[RoundRecord], registry: Registry
) -> tuple[dict[int, float], str | None]:
    model, family = recipe.model, recipe.family
    try:
        return flops_ratios(folder, records, registry, model=model, family=family), None
    except PTLError as error:  # the report goes on without
        return {}, str(error)


def _records(folder: Path) -> tuple[RoundRecord, ...]:
    run = RunFolder(folder, writes=False)
    paths = [run.round_folder(index) / RECORD for index in range(run.num_finished() + 1)]
    return tuple(_record(path, index) for index, path in enumerate(paths) if path.exists())


def _record(path: Path, index: int) -> RoundRecord:
    record = _parse(path, RECORDS)
    if record.round != index:
        raise _damaged(path, f"round: {record.round}, but the folder is of round {index}")
    for name in ("num_layers", "width", "num_parameters", "hidden"):
        value = getattr(record, name)
        if value is not None and value < 1:
            raise _damaged(path, f"{name}: {value} is not above 0")
    return record


def _parse(path: Path, adapter: TypeAdapter[T]) -> T:
    """Return what a file holds, with the first thing that is wrong in it as an error."""
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{where}: {first['msg']}" if where else first["msg"]) from None


def _damaged(path: Path, why: str) -> RunFolderError:
    line = " ".join(why.split())
    return RunFolderError(f"{path}: is damaged ({line}); bring it back, or leave this run out")


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    deepest = max(len(folder.parts) for folder in folders)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names
