"""The values of an evaluation: what is asked for, what came of one question, of one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ptl_plugins.errors import PTLError

Status = Literal["scored", "empty", "too_long", "timed_out", "failed", "unreadable_gold"]
"""What became of a question: all but `scored` and `unreadable_gold` count as wrong."""
Finish = Literal["stop", "length", "none"]
"""Why an answer ended: at a stop text or the end of text, at the limit, or there is none."""


class EvaluationError(PTLError):
    """An evaluation cannot be done as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its true answer, as the task's prompt takes it."""

    index: int
    """Its place in the task's data, from 0."""
    doc: Mapping[str, Any]
    """The fields that prompt and scoring use."""
    asked: str = ""
    """What of it the prompt shows."""
    unreadable: str = ""
    """Why it or its true answer cannot be read; empty where both can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one answer."""

    prompt_tokens: int
    generated_tokens: int
    finish: Finish


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionResult:
    """What a model made of one question; a line of the saved results."""

    index: int
    status: Status
    marks: Mapping[str, float] = field(default_factory=dict)
    """0 or 1 by name; empty where the true answer cannot be read."""
    detail: str = ""
    """One line: why it was not scored."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    """With the one that ended the answer."""
    finish: Finish = "none"
    flops: int | None = None
    """Of its own tokens; None where the model's family is not known."""
    prompt: str = ""
    response: str = ""
    gold: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the questions of a task are asked."""

    limit: int | None = None
    """The first so many questions; None: all."""
    batch_size: int = 8
    max_new_tokens: int | None = None
    """None: the task's own."""
    data_dir: str | None = None
    """A folder with the data as jsonl; None: the hub."""
    backend: Literal["hf", "vllm"] = "hf"
    chat_template: Literal["own", "qwen_math"] = "own"
    """Of the chat tasks: the model's own, or the form that Qwen's RL models are trained with."""
    allow_code_execution: bool = False
