"""The settings of a GRPO stage: one object, whatever framework trains.

The defaults are the paper's (section 3.1: 128 prompts a step and an optimizer step, 8 rollouts,
temperature 1.0, learning rate 1e-6); where it is silent, those of its released scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from ptl_plugins.given_path import given_path
from ptl_plugins.recipe_errors import explain

STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Count = Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(gt=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, pydantic.Field(min_length=1)]


class _Strict(pydantic.BaseModel):
    model_config = STRICT


class GrpoModel(_Strict):
    """`grpo`: the algorithm (Shao et al., 2024), in names of its own."""

    samples_per_prompt: Annotated[int, pydantic.Field(ge=2)] = 8
    """Rollouts of each prompt; their mean reward is the baseline."""
    prompts_per_step: Count = 128
    """Prompts that are answered before the weights change."""
    mini_batch: Count = 128
    """Prompts of one optimizer step, with all their rollouts."""
    temperature: Positive = 1.0
    """Of the rollouts."""
    top_p: Share = 1.0
    """Nucleus of the rollouts."""
    learning_rate: Positive = 1e-6
    """Constant, after the warm-up."""
    weight_decay: NotNegative = 1e-2
    """Of AdamW."""
    warmup_ratio: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate grows."""
    kl: NotNegative = 1e-2
    """Weight of the KL divergence from the model that the stage began with; 0: none."""
    max_prompt_length: Count = 2048
    """Tokens; longer prompts are left out."""
    max_response_length: Count = 2048
    """Tokens of a rollout, at most."""
    epochs: Count = 1
    """Times that the round's part is gone through."""
    steps: Count | None = None
    """Steps at most; unset, what the epochs are."""

    @pydantic.model_validator(mode="after")
    def _mini_batch_fits(self) -> GrpoModel:
        if self.prompts_per_step % self.mini_batch:
            raise ValueError(
                f"mini_batch: {self.mini_batch} does not divide prompts_per_step, "
                f"{self.prompts_per_step}; give a divisor of it"
            )
        return self


class ProblemsModel(_Strict):
    """`problems`: questions with an answer that can be checked, cut into one part per round."""

    path: Text
    """A json, jsonl or parquet file, a folder of them, or a data set of the hub."""
    question: Text = "problem"
    """The column of the question."""
    answer: Text = "answer"
    """The column of the final answer."""
    split: Text = "train"
    """The split of a hub data set."""


class RewardModel(_Strict):
    """`reward`: how an answer is judged."""

    accuracy_weight: Weight = 0.9
    """Of a right answer in \\boxed{}."""
    format_weight: Weight = 0.1
    """Of the form: <think>...</think>, then \\boxed{}."""
    time_limit: Positive = 5.0
    """Seconds in which one answer is judged; one that takes longer is wrong."""
    file: str | None = None
    """A Python file of your own in the framework's own form; unset, PTL's."""
    function: str | None = None
    """The function of that file."""

    def arguments(self) -> dict[str, float]:
        """Return what the function is given; one of the user's own need not know PTL's."""
        names = ("accuracy_weight", "format_weight", "time_limit")
        return {} if self.file else {name: getattr(self, name) for name in names}

    @pydantic.model_validator(mode="after")
    def _something_is_rewarded(self) -> RewardModel:
        if not self.accuracy_weight and not self.format_weight:
            raise ValueError("accuracy_weight and format_weight are both 0: nothing is rewarded")
        return self

    @pydantic.model_validator(mode="after")
    def _own_file_has_function(self) -> RewardModel:
        if (self.file is None) != (self.function is None):
            raise ValueError("file and function go together: give both, or neither")
        return self


class ProfileModel(_Strict):
    """`profile`: activations of the live actor, on request."""

    before: bool = False
    """Whether it is profiled before the first step."""
    after: bool = False
    """Whether it is profiled after the last."""
    num_sequences: Count = 32
    """Texts of the round's part of the corpus that it reads."""


class GrpoStageModel(_Strict):
    """The keys of `settings` that both frameworks share."""

    grpo: GrpoModel = GrpoModel()
    """The algorithm."""
    problems: ProblemsModel
    """Questions and answers."""
    prompt: Text = "think_boxed"
    """How a question is asked: think_boxed, boxed, or a jinja file with the variable `content`."""
    chat_template: Text | None = None
    """For a model without one: plain_chat, or a jinja file; unset, it is the model's own."""
    reward: RewardModel = RewardModel()
    """How an answer is judged."""
    nodes: Count = 1
    """Machines; `launch.processes` is the number of GPUs of each."""
    tensor_parallel: Count = 1
    """GPUs that one rollout engine is spread over."""
    ray_address: Text | None = None
    """A Ray cluster to join, or `local`: one of the stage's own even if another runs."""
    config: Mapping[str, Any] = {}
    """Any other keys of the framework, verbatim; dotted or nested."""

    @pydantic.model_validator(mode="after")
    def _machines_have_a_cluster(self) -> GrpoStageModel:
        if self.nodes > 1 and self.ray_address in (None, "local"):
            raise ValueError(
                f"nodes: {self.nodes} machines are those of a Ray cluster; give its address as "
                "ray_address"
            )
        return self


class VerlModel(GrpoStageModel):
    """`settings` of the backend `verl`."""

    rollout: Literal["vllm", "sglang", "hf_cpu"] = "vllm"
    """What answers the prompts; hf_cpu is plain transformers, for a machine without a GPU."""
    profile: ProfileModel = ProfileModel()
    """Activations of the live actor."""


class EasyR1Model(GrpoStageModel):
    """`settings` of the backend `easyr1`."""

    home: Text
    """The clone of EasyR1."""
    keep_shards: bool = False
    """Whether the FSDP shards stay after they are merged."""


Model = TypeVar("Model", bound=GrpoStageModel)


def read_settings(model: type[Model], settings: Mapping[str, Any]) -> Model | list[str]:
    """Return the checked settings, or a line per problem, `settings.KEY: ...`."""
    try:
        return model.model_validate(dict(settings))
    except pydantic.ValidationError as error:
        return explain(error, model, prefix="settings")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested or dotted keys; an empty mapping is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def template_path(name: str) -> Path:
    """Return the file of a template: one that comes with PTL, by name, or the user's."""
    packaged = Path(__file__).with_name("templates") / f"{name}.jinja"
    return packaged if packaged.is_file() else given_path(name)
