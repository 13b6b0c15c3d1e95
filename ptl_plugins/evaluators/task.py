"""The evaluator `chain_of_thought`: teacher-forced loss and step results on held-out problems."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.types import RoundContext, Subject

if TYPE_CHECKING:
    from ptl_plugins.evaluators.chain_of_thought import Problem

DEFAULTS: dict[str, Any] = {
    "data": None,
    "num_problems": 100,
    "prompt": "Question: {question}\nAnswer: ",
    "batch_tokens": 4096,
    "max_length": 1024,
}


class ChainOfThought:
    """Metrics `cot_loss` (nats per answer token) and `step_accuracy`, on jsonl rows.

    Settings: `data` (a jsonl file with `question` and `answer`), `num_problems` (its first
    rows), `prompt` (a template of `{question}`), `batch_tokens`, `max_length`.
    """

    def check(self, settings: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the settings in one line, or None."""
        for key in settings:
            if key not in DEFAULTS:
                hint = did_you_mean(key, DEFAULTS)
                return f"unknown key '{key}'{hint}; allowed: {', '.join(DEFAULTS)}"
        for key in ("num_problems", "batch_tokens", "max_length"):
            value = settings.get(key, DEFAULTS[key])
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                return f"{key}: {value!r} is not a positive whole number"
        if "{question}" not in str(settings.get("prompt", DEFAULTS["prompt"])):
            return "prompt: has no {question} in it"
        data = settings.get("data")
        if not isinstance(data, str) or not Path(data).is_file():
            return f"data: {data!r} is no file; give a jsonl file with 'question' and 'answer'"
        return None

    def evaluate(
        self, ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """Measure the live model, each rank its share of the problems."""
        from ptl_plugins.evaluators import chain_of_thought as cot
        from ptl_plugins.live import stored_weights

        chosen = {**DEFAULTS, **settings}
        if subject.model is None or subject.tokenizer is None:
            raise PTLError("evaluator 'chain_of_thought' needs a live model")
        problems = read_problems(Path(chosen["data"]), chosen["num_problems"], chosen["prompt"])
        with stored_weights(subject.model, subject.stored_dtype):
            counts = cot.count_chain_of_thought(
                subject.model,
                subject.tokenizer,
                problems[ctx.ranks.rank :: ctx.ranks.size],
                batch_tokens=chosen["batch_tokens"],
                max_length=chosen["max_length"],
            )
        shares = ctx.ranks.gather(dataclasses.astuple(counts))
        return cot.metrics(cot.ChainOfThoughtCounts(*map(sum, zip(*shares, strict=True))))


def read_problems(path: Path, number: int, prompt: str) -> list[Problem]:
    """Return the first `number` problems of a jsonl file.

    Raises:
        PTLError: a row is not JSON, or has no `question` or no `answer`; the line is named.
    """
    from ptl_plugins.evaluators.chain_of_thought import Problem

    problems: list[Problem] = []
    with path.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines, start=1):
            if len(problems) == number:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PTLError(f"{path}: line {index}: is not JSON ({error})") from None
            if not isinstance(row, dict) or not {"question", "answer"} <= row.keys():
                raise PTLError(f"{path}: line {index}: needs the keys 'question' and 'answer'")
            text = prompt.replace("{question}", str(row["question"]))
            problems.append(Problem(prompt=text, answer=str(row["answer"])))
    return problems
