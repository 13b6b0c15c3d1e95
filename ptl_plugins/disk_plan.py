"""What a run takes on the disk, round by round.

It is an upper estimate from the plan alone; `kept_files` is what deletes. The cache of the hub
and what a framework keeps outside the run folder are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ptl_plugins.disk_sizes import (
    ModelSizes,
    indices,
    model_sizes,
    num_saved,
    scores,
    second_moments,
    show_bytes,
    size_of,
)
from ptl_plugins.geometry import Geometry
from ptl_plugins.given_path import given_path
from ptl_plugins.preflight import Plan
from ptl_plugins.schedule import PlannedRound
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import Recipe

NOTES_BYTES = 200_000
"""Logs and records, of a round and of a stage each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundDisk:
    """Bytes in the run folder, all rounds before counted in."""

    index: int
    peak: int
    """At most, while the round runs."""
    after: int
    """When it is recorded and tidied up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskPlan:
    """A run's bytes."""

    folder: Path
    rounds: tuple[RoundDisk, ...]
    further: int = 0
    """Of each checkpoint beyond the first that a stage saves on its way; 0: all are counted."""

    @property
    def highest(self) -> RoundDisk:
        """The round that needs the most."""
        return max(self.rounds, key=lambda each: each.peak)

    def __str__(self) -> str:
        """Return one line for people."""
        line = (
            f"at most {show_bytes(self.highest.peak)} while it runs (round {self.highest.index}), "
            f"{show_bytes(self.rounds[-1].after)} when it is done, in {self.folder}"
        )
        if self.further:
            line += (
                "; of the checkpoints that a stage saves on its way one is counted, each further "
                f"one takes {show_bytes(self.further)}"
            )
        return line


def plan_disk(plan: Plan) -> DiskPlan:
    """Return the bytes of every round; from a threshold on, of the last shape that is known.

    Raises:
        PTLError: the model has no config that can be read.
    """
    recipe, shape = plan.recipe, plan.original
    sizes, part = model_sizes(recipe.model, plan.original), _part_bytes(recipe)
    rounds: list[RoundDisk] = []
    present = earlier = further = 0
    for planned in plan.rounds:
        bytes_ = _round_bytes(recipe, sizes, planned, shape, part)
        goes = earlier if recipe.keep.rounds == "last" and bytes_.model else 0
        peak, after = present + bytes_.peak(recipe), present + bytes_.stays(recipe) - goes
        if recipe.data is None and planned is plan.rounds[-1]:  # its model goes to the top as well
            peak, after = max(peak, after + bytes_.models[-1]), after + bytes_.models[-1]
        rounds.append(RoundDisk(index=planned.spec.index, peak=peak, after=after))
        earlier = bytes_.model or earlier  # of recovery alone without a stage no model comes
        present, further = after, max(further, bytes_.further)
        shape = planned.geometry or shape
    return DiskPlan(folder=recipe.run_folder, rounds=tuple(rounds), further=further)


@dataclass(frozen=True, kw_only=True, slots=True)
class _RoundBytes:
    """Bytes of one round's files."""

    notes: int
    """What always stays: scores, the plan, logs, the stages' data."""
    moments: int
    pruned: int
    models: tuple[int, ...]
    """Of each stage's model; the last one is the round's."""
    trained: tuple[int, ...]
    """Of what each stage's program saves."""
    further: int

    @property
    def model(self) -> int:
        return self.models[-1] if self.models else self.pruned

    def peak(self, recipe: Recipe) -> int:
        """Return the most that lies there at a time, rounds before not counted."""
        steps = [self.moments + self.pruned]
        for index, model in enumerate(self.models):
            kept = self.trained[: index + 1] if _keeps(recipe) else (self.trained[index],)
            steps.append(self.pruned + sum(self.models[:index]) + model + sum(kept))
        return self.notes + max(steps)

    def stays(self, recipe: Recipe) -> int:
        """Return what lies there when the round is tidied up."""
        if not _keeps(recipe) or not self.models:
            return self.notes + self.model
        return self.notes + self.pruned + sum(self.models) + sum(self.trained)


def _keeps(recipe: Recipe) -> bool:
    """Whether a stage's files stay; nothing is tidied up in a training framework's own door."""
    return recipe.keep.intermediate or recipe.data is None


def _round_bytes(
    recipe: Recipe, sizes: ModelSizes, planned: PlannedRound, before: Geometry, part: int
) -> _RoundBytes:
    """Work out a round that makes `planned` of the shape `before`."""
    spec, stages = planned.spec, recipe.stages_in(planned.spec.planned)
    shape = planned.geometry or before
    model, neurons_go = sizes.stored(shape), any(cut.unit == "neuron" for cut in spec.cuts)
    measured = (scores(before) * (2 if recipe.protect else 1) + 2 * indices(before)) * len(
        spec.cuts
    )
    trained = [_trained(recipe, stage, sizes, shape) for stage in stages]
    return _RoundBytes(
        notes=measured + NOTES_BYTES + len(stages) * (part + NOTES_BYTES),
        moments=second_moments(before) if neurons_go and recipe.refit == "ridge" else 0,
        pruned=model if spec.cuts and recipe.data else 0,  # the other door cuts in memory
        models=(model,) * len(stages),
        trained=tuple(number for number, _ in trained),
        further=max((number for _, number in trained), default=0),
    )


def _trained(
    recipe: Recipe, stage: StageSpec, sizes: ModelSizes, shape: Geometry
) -> tuple[int, int]:
    """Return the bytes of what a stage's program saves, and of each checkpoint not counted."""
    inside = recipe.data is None  # where a save_steps alone is enough, and PTL saves the model
    default = "steps" if inside and "save_steps" in stage.settings else "no"
    number = num_saved(stage.settings, default)
    each = sizes.saved(shape, stage.settings)
    total = (1 if number is None else number) * each + (0 if inside else sizes.trained(shape))
    return total, each if number is None else 0


def _part_bytes(recipe: Recipe) -> int:
    """Return the bytes of a round's part of a corpus on this machine; a template may add some."""
    if recipe.data is None:
        return 0
    return 2 * size_of(given_path(recipe.data.path)) // len(recipe.planned_rounds)
