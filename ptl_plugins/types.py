"""The values that travel between the parts: frozen, keyword-only, free of torch at run time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ptl_plugins.health import HealthSpec, OnDivergence
from ptl_plugins.stage_types import StageSpec, StageTime

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ptl_plugins.families import Family
    from ptl_plugins.geometry import Geometry
    from ptl_plugins.hookspecs import Hooks
    from ptl_plugins.ranks import Ranks
    from ptl_plugins.registry import Registry
    from ptl_plugins.round_log import RoundLog
    from ptl_plugins.run_folder import RunFolder

Unit = Literal["neuron", "layer", "hidden"]
Refit = Literal["ridge", "none"]
Tokens = Literal["equal", "proportional", "final"]
"""How the documents of a corpus are shared among the rounds (`ptl_plugins.shares`)."""
LearningRateSchedule = Literal["round", "run"]
"""Whether the learning rate's schedule is over each round or over all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """One removal: `amount` neurons per layer, layers, or directions of the residual stream."""

    unit: Unit
    criterion: str
    selector: str
    amount: float
    rounds_left: int = 1
    """Rounds in which this cut is still to be made, this one among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundSpec:
    """One iteration of Algorithm 1; `index` counts from 1, no cuts means recovery only."""

    index: int
    cuts: tuple[Cut, ...]
    step_of: int | None = None
    """The recipe's own number of the round, where smaller steps after a training that diverged
    made it or moved it; None: its index."""

    @property
    def planned(self) -> int:
        """The recipe's own number of the round: whose data, stages and protection it has."""
        return self.index if self.step_of is None else self.step_of


def top_of_round(top: int | Sequence[int], rounds: Sequence[RoundSpec], index: int) -> int:
    """Return the one `top`, or that of round `index` among those that cut neurons; else 0."""
    cutting = [each for each in rounds if any(cut.unit == "neuron" for cut in each.cuts)]
    spec = next((each for each in cutting if each.index == index), None)
    if spec is None:
        return 0
    planned = list(dict.fromkeys(each.planned for each in cutting))
    return top if isinstance(top, int) else top[planned.index(spec.planned)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSpec:
    """How many sequences of a round's own data part are profiled, and how they are batched."""

    num_sequences: int
    max_length: int | None
    """Tokens a sequence is cut to; None: the training framework's own cut-off length."""
    batch_tokens: int
    """Padded tokens per batch, a bound on memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtectSpec:
    """A second corpus, and how many neurons of each layer it protects."""

    data: str
    """A file or a data set of the hub."""
    column: str
    top: int | tuple[int, ...]
    """Neurons per layer that are never removed: those most important on this corpus. Several: one
    number for each round that cuts neurons."""
    num_sequences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTask:
    """One evaluator with its settings, as the recipe names them."""

    evaluator: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec:
    """What is measured on the original and on the rounds."""

    tasks: tuple[EvaluationTask, ...]
    every: int
    """Every how many rounds; the last round is always measured."""
    original: bool = True
    """Whether the original is measured, as round 0."""
    before_recovery: bool
    """Whether the pruned model is measured before its recovery as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """The corpus of a run: texts that are cut into one part per round."""

    path: str
    """A file, a folder of files, or a data set of the hub."""
    column: str
    template: str | None
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepSpec:
    """Which checkpoints of a run stay on the disk."""

    rounds: Literal["all", "last"] = "all"
    """Whether every round's model stays, or that of the last finished round alone."""
    intermediate: bool = False
    """Whether the pruned models and everything that the stages saved stay as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillSpec:
    """A teacher whose distribution the recovery follows, beside the texts or in their place."""

    teacher: str
    """`original`, the recipe's model before round 1, or a checkpoint of the same vocabulary."""
    weight: float
    """Of the forward KL, 0 to 1; the cross-entropy has the rest."""
    dtype: str | None = None
    """A name of torch; None: as the checkpoint is stored."""
    device: str | None = None
    """None: where the student is."""

    @property
    def is_original(self) -> bool:
        """Whether the teacher is the recipe's model."""
        return self.teacher == "original"

    @property
    def is_on(self) -> bool:
        """Whether there is anything to distil; with weight 0 no teacher is loaded."""
        return self.weight > 0

    def model(self, original: str) -> str:
        """Return the teacher's folder or name; `original` is the recipe's model."""
        return original if self.is_original else self.teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe file, checked and resolved; both doors expand to this."""

    source: Path
    model: str
    family: str | None
    """None: found by the model's own `model_type`."""
    seed: int
    run_folder: Path
    rounds: tuple[RoundSpec, ...]
    multiple_of: int
    refit: Refit
    """What is done to `down_proj` when neurons go."""
    protect: ProtectSpec | None
    calibration: CalibrationSpec
    stages: tuple[StageSpec, ...]
    evaluation: EvaluationSpec
    text: str
    data: DataSpec | None = None
    """The corpus, where PTL itself reads it; None: the training framework does."""
    keep: KeepSpec = field(default_factory=KeepSpec)
    distill: DistillSpec | None = None
    """The teacher of the stages that can have one; None: they train on the texts alone."""
    tokens: Tokens = "equal"
    learning_rate_schedule: LearningRateSchedule = "round"
    """Of the training framework's own door, which trains all rounds in one process."""
    health: HealthSpec = field(default_factory=HealthSpec)
    """From where on a training counts as diverged."""
    on_divergence: OnDivergence = "stop"
    written_rounds: tuple[RoundSpec, ...] = ()
    """The rounds as the file has them, where `rounds` has smaller steps of some; else empty."""

    @property
    def planned_rounds(self) -> tuple[RoundSpec, ...]:
        """The rounds as the file has them, among which data are shared."""
        return self.written_rounds or self.rounds

    def protect_top(self, round_index: int) -> int:
        """Return how many neurons per layer are protected in a round, 0 where it cuts none."""
        return top_of_round(self.protect.top if self.protect else 0, self.rounds, round_index)

    def stages_in(self, round_index: int) -> tuple[StageSpec, ...]:
        """Return the recovery stages of a round, in order."""
        return tuple(stage for stage in self.stages if stage.is_in(round_index))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Statistics of one profiling pass; criteria turn them into importances."""

    statistics: Mapping[str, NDArray[np.float32]]
    """By name: [layers, width] for neurons, [layers] for layers."""
    num_layers: int
    width: int
    num_tokens: int
    num_sequences: int
    protect: Scores | None = None
    """The same statistics of the corpus whose neurons are protected."""

    def __repr__(self) -> str:
        return f"Scores({', '.join(self.statistics)}; {self.num_tokens} tokens)"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """What goes: indices into the model as it is before this cut."""

    num_layers: int
    width: int
    removed_neurons: tuple[tuple[int, ...], ...]
    """Per layer, ascending; the same number in every layer; empty when no neuron goes."""
    removed_layers: tuple[int, ...]
    criteria: Mapping[str, str]
    """Unit -> criterion that chose."""
    scores_digest: str
    new_hidden: int | None = None
    """Directions of the residual stream that slicing leaves; None: it is not sliced."""

    @property
    def new_width(self) -> int:
        """Width of every layer after the cut."""
        return self.width - (len(self.removed_neurons[0]) if self.removed_neurons else 0)

    @property
    def new_num_layers(self) -> int:
        """Number of layers after the cut."""
        return self.num_layers - len(self.removed_layers)

    @property
    def is_empty(self) -> bool:
        """Whether nothing goes: a threshold may find nothing below it."""
        return not self.removed_neurons and not self.removed_layers and self.new_hidden is None

    def kept_layers(self) -> list[int]:
        """Return the layers that stay, ascending."""
        gone = set(self.removed_layers)
        return [layer for layer in range(self.num_layers) if layer not in gone]

    def kept_neurons(self, layer: int) -> list[int]:
        """Return the neurons of `layer` that stay, ascending."""
        gone = set(self.removed_neurons[layer]) if self.removed_neurons else set()
        return [neuron for neuron in range(self.width) if neuron not in gone]

    def digest(self) -> str:
        """Return a SHA-256 of what goes: equal plans have equal digests."""
        what: tuple[Any, ...]
        what = (self.num_layers, self.width, self.removed_neurons, self.removed_layers)
        if self.new_hidden is not None:  # plans of other rounds keep their digests
            what += (self.new_hidden,)
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def __repr__(self) -> str:
        hidden = "" if self.new_hidden is None else f", hidden -> {self.new_hidden}"
        return (
            f"PrunePlan(width {self.width} -> {self.new_width}, "
            f"layers {self.num_layers} -> {self.new_num_layers}{hidden})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What a step works on: a live model or a checkpoint folder."""

    family: Family
    path: Path | None = None
    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    stored_dtype: torch.dtype | None = None
    """The dtype its checkpoints are written in, whatever the live weights are trained in."""

    def __repr__(self) -> str:
        return f"Subject({self.family.name}, {self.path or 'live'})"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """Metrics by name, each a plain number."""

    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRecord:
    """What one finished round was and measured; round 0 is the original."""

    round: int
    num_layers: int
    width: int
    num_parameters: int
    cuts: tuple[Cut, ...] = ()
    plan_digest: str | None = None
    model_digest: str | None = None
    pruned: EvalResult | None = None
    """Before recovery."""
    recovered: EvalResult | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step, of the try that recorded the round."""
    stages: tuple[StageTime, ...] = ()
    """Of every recovery stage, in order, also of one that an earlier try finished; empty in a
    round without a stage, and in records of versions that did not note them."""
    hidden: int | None = None
    """What slicing alone changes; None in records of versions that did not note it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A finished run: its folder, its last model and the records of all rounds."""

    folder: Path
    model: Path
    records: tuple[RoundRecord, ...]


class Corpus(Protocol):
    """The run's data, cut by document into one part per round."""

    def calibration(self, round_index: int) -> Sequence[Sequence[int]]:
        """Return token ids of the sequences that profile round `round_index` (from its part)."""
        ...

    def for_rounds(self, rounds: Sequence[RoundSpec]) -> Corpus:
        """Return the same data for these rounds; one that is a step of another has its part."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundContext:
    """What every step of a round may use. Short in traces, no tensors."""

    spec: RoundSpec
    recipe: Recipe
    run: RunFolder
    registry: Registry
    corpus: Corpus
    ranks: Ranks
    hooks: Hooks
    original: Geometry
    """The sizes before the first round."""
    log: RoundLog

    def for_round(self, spec: RoundSpec) -> RoundContext:
        """Return the context of another round of the same run, with a log of its own."""
        return replace(self, spec=spec, log=self.log.for_round(spec.index))

    @property
    def folder(self) -> Path:
        """The round's folder, `round_NN`."""
        return self.run.round_folder(self.spec.index)

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The round's recovery stages; their folders count from 0."""
        return self.recipe.stages_in(self.spec.planned)

    def __repr__(self) -> str:
        return f"RoundContext({self.recipe.source.name}, round {self.spec.index})"
