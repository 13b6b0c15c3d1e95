"""The keys that a `ptl:` section and a PTL recipe share, as pydantic checks them.

The docstring of a key is its description in `recipes/schema.json`, which editors show.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pydantic

from ptl_plugins.amounts import read_amount
from ptl_plugins.given_path import PathText
from ptl_plugins.health import OnDivergence
from ptl_plugins.schedule import Order
from ptl_plugins.types import LearningRateSchedule, Refit, Tokens

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "maia", "npu", "xla", "privateuseone")
"""Types of torch's devices that a model can compute on; ROCm's GPUs are `cuda` to torch."""
DEVICE = f"^({'|'.join(DEVICE_TYPES)})(:(0|[1-9][0-9]?))?$"
STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def read_device(value: str) -> str:
    """Return a device of torch's as it is given; torch is not imported.

    Raises:
        ValueError: torch has no such device.
    """
    if re.fullmatch(DEVICE, value) is None:
        raise ValueError(
            f"is no device of torch; allowed: {', '.join(DEVICE_TYPES)}, the number of one behind "
            "a colon, such as cuda:1"
        )
    return value


Device = Annotated[
    str, pydantic.AfterValidator(read_device), pydantic.Field(json_schema_extra={"pattern": DEVICE})
]


class _Strict(pydantic.BaseModel):
    model_config = STRICT


class PhaseModel(_Strict):
    """One entry of `schedule`: what is cut, and in how many rounds."""

    unit: Literal["neuron", "layer", "hidden", "none"]
    """What one round removes: FFN neurons, whole layers, directions of the hidden size (SliceGPT,
    `ptl run` alone), or nothing (recovery alone)."""
    criterion: str | None = None
    """What is least important: a name of `ptl ls criteria`, of the same unit.

    Unset, it is output_change for neurons, l2 for layers and slicegpt for the hidden size.
    """
    selector: str = "count"
    """How `amount` is read: a name of `ptl ls selectors`."""
    amount: (
        Annotated[
            float,
            pydantic.BeforeValidator(read_amount),
            pydantic.Field(ge=0, allow_inf_nan=False),
        ]
        | None
    ) = None
    """How much ONE round removes, or what the phase leaves, as the selector reads it.

    A number such as 500, 0.1 or 5B. Needed, but for unit none, which takes none.
    """
    rounds: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1
    """How many rounds do so."""

    @pydantic.model_validator(mode="after")
    def _amount_fits_unit(self) -> PhaseModel:
        if self.unit != "none" and self.amount is None:
            raise ValueError(f"amount is missing: how much one round of unit '{self.unit}' removes")
        if self.unit == "none" and (self.amount or self.criterion):
            raise ValueError("unit 'none' prunes nothing: it takes no amount and no criterion")
        return self


class CalibrationModel(_Strict):
    """`calibration`: the sequences that a round is profiled on."""

    num_sequences: Annotated[int, pydantic.Field(ge=1)] = 128
    """How many documents of the round's own part are profiled."""
    max_length: Annotated[int, pydantic.Field(ge=1)] | None = None
    """Tokens that each document is cut to; unset, it is the framework's cutoff_len."""
    batch_tokens: Annotated[int, pydantic.Field(ge=1)] = 4096
    """Padded tokens per batch, a bound on memory."""


def _kind_of_top(value: object) -> str:
    return "function-list" if isinstance(value, list | tuple) else "function-number"


AtLeastOne = Annotated[int, pydantic.Field(ge=1)]
Top = Annotated[
    Annotated[AtLeastOne, pydantic.Tag("function-number")]
    | Annotated[
        tuple[AtLeastOne, ...], pydantic.Field(min_length=1), pydantic.Tag("function-list")
    ],
    pydantic.Discriminator(_kind_of_top),
]
"""One number, or a list of them; messages leave out tags that begin with "function-"."""


class ProtectModel(_Strict):
    """`protect`: a second corpus, whose neurons are never removed."""

    data: PathText
    """The corpus: a json, jsonl, parquet or txt file, a folder of them, or a hub data set."""
    top: Top
    """How many neurons of each layer it protects; a list has one number for each round that cuts
    neurons, in their order."""
    column: str = "text"
    """The column that holds the text."""
    num_sequences: Annotated[int, pydantic.Field(ge=1)] = 128
    """How many texts of it are profiled, chosen by the seed."""


class DistillModel(_Strict):
    """`distill`: a frozen teacher, whose distribution the recovery follows."""

    teacher: PathText
    """`original`, the model before round 1, or a checkpoint with the same tokenizer."""
    weight: Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
    """The loss is (1 - weight) * cross-entropy + weight * KL(teacher || student); 0 is off."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the teacher computes in; unset, as its checkpoint is stored."""
    device: Device | None = None
    """Where the teacher is, such as cpu or cuda:1; unset, with the model that is trained."""


class TaskModel(pydantic.BaseModel):
    """One entry of `evaluate.tasks`; the keys beside `evaluator` are the evaluator's own."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    evaluator: str
    """What measures: a name of `ptl ls evaluators`; the keys beside it are its own."""


class EvaluateModel(_Strict):
    """`evaluate`: what is measured, and when."""

    tasks: list[TaskModel] = []
    """What is measured; empty, nothing is."""
    every: Annotated[int, pydantic.Field(ge=1)] = 1
    """Every how many rounds; the last round always is."""
    original: bool = True
    """Whether the original is measured, before the first round."""
    before_recovery: bool = False
    """Whether the pruned model is measured before it is trained, in every round that cuts."""


class HealthModel(_Strict):
    """`health`: from where on a training counts as diverged."""

    steps: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 5
    """How many of the steps that the training tells of, in a row, have to be past a bound."""
    loss_rise: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 3.0
    """Nats that the loss may be above the lowest level that it had come to in the round."""
    gradient_norm: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 10000.0
    """The largest norm of the gradients, before they are clipped."""
    length_ratio: Annotated[float, pydantic.Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    """GRPO: how short the answers may get, relative to the first steps'; shorter ones that have
    a higher reward are welcome."""


class SectionModel(_Strict):
    """The keys that a `ptl:` section and a PTL recipe share."""

    schedule: Annotated[list[PhaseModel], pydantic.Field(min_length=1)]
    """What is cut, in how many rounds: a list of phases, at least one."""
    order: Order = "listed"
    """In which order the rounds of the phases come."""
    tokens: Tokens = "equal"
    """How the documents are shared among the rounds: equally, by the parameters that each round
    removes, or half of them for the last round and equally among the others."""
    learning_rate_schedule: LearningRateSchedule = "round"
    """What warm-up and decay of the learning rate span: each round, or all rounds of the run
    (LLaMA-Factory with a `ptl:` section alone)."""
    family: str | None = None
    """The model's family, a name of `ptl ls families`; unset, found by its model_type."""
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] | None = None
    """Of the cut of the corpus and of each round's training; unset, LLaMA-Factory's, or 42."""
    multiple_of: Annotated[int, pydantic.Field(ge=1)] = 1
    """A cut leaves a width that is a multiple of it: rounded up, with a target down."""
    refit: Refit = "ridge"
    """What is done to the rest of down_proj when neurons go: ridge regression, or nothing."""
    protect: ProtectModel | None = None
    """A second corpus, whose neurons are never removed."""
    calibration: CalibrationModel = CalibrationModel()
    """The sequences that a round is profiled on."""
    distill: DistillModel | None = None
    """A frozen teacher for the stages of LLaMA-Factory; unset, they train on the texts alone."""
    evaluate: EvaluateModel = EvaluateModel()
    """What is measured, and when."""
    health: HealthModel = HealthModel()
    """From where on a training counts as diverged, and ends early."""
    on_divergence: OnDivergence = "stop"
    """What is done then: end with the round marked as failed, or take it again in two rounds with
    half of the step each, up to three times."""
