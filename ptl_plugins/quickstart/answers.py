"""Accuracy of freely generated answers: does the last line name the right number?"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import grouped_attention
from ptl_plugins.quickstart.prompt import prompt

NUMBER = r"(?:(?<![\w.)])-)?(?:[$\u00a3\u20ac]\s*-?)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
FINAL_LINE = re.compile(rf"####\s*({NUMBER})")
FINISHED = re.compile(rf"####[^\S\n]*{NUMBER}[^\n]*\n|\n\s*Question:")
TAIL_TOKENS = 32
"""Tokens looked at for a finished last line; such a line is far shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerResult:
    """Accuracy on held-out problems."""

    num_problems: int
    num_correct: int
    accuracy: float
    standard_error: float
    """Binomial, of the sampled problems; it says nothing about other seeds of training."""
    seconds: float
    """Wall time, loading the model included."""


def answer_accuracy(
    model_folder: Path,
    held_out: Path,
    *,
    num_problems: int = 100,
    max_new_tokens: int = 160,
    batch_size: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> AnswerResult:
    """Answer the first `num_problems` rows greedily in bf16 on the CPU and compare the numbers.

    Args:
        model_folder: a Hugging Face checkpoint with its tokenizer.
        held_out: jsonl rows with `question` and `result`.
        num_problems: fewer rows in the file is fine, none is not.
        max_new_tokens: where an answer is cut off; the 95th percentile of the corpus is 156.
        batch_size: prompts generated together, of similar length.
        progress: called with (problems done, problems in all) after each batch.

    Raises:
        PTLError: the file holds no problem, or a row lacks a key.
    """
    started = time.perf_counter()
    rows = _read(held_out, num_problems)
    model, tokenizer = _load(model_folder)
    num_correct = num_done = 0
    for batch in _by_length(rows, batch_size):
        prompts = [prompt(row["question"]).rstrip() for row in batch]
        texts = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
        num_correct += sum(
            is_right(text, row["result"]) for text, row in zip(texts, batch, strict=True)
        )
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(rows))
    accuracy = num_correct / len(rows)
    return AnswerResult(
        num_problems=len(rows),
        num_correct=num_correct,
        accuracy=accuracy,
        standard_error=math.sqrt(accuracy * (1 - accuracy) / len(rows)),
        seconds=time.perf_counter() - started,
    )


def extract_number(text: str) -> Decimal | None:
    """Return the number of the `####` line, else the last number before another question."""
    marked = FINAL_LINE.search(text)
    if marked:
        return _number(marked.group(1))
    own = re.split(r"\n\s*Question:", text)[0]
    numbers = re.findall(NUMBER, own)
    return _number(numbers[-1]) if numbers else None


def is_right(text: str, result: str) -> bool:
    """Return whether the answer's number is `result`: `$1,200.00` is `1200`, `7.` is `7`."""
    given = extract_number(text)
    return given is not None and given == _number(result)


class FinishedAnswer(StoppingCriteria):
    """Stops a row that has printed its whole `#### number` line, or begins another question."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None, **_: Any
    ) -> torch.Tensor:
        """Return bool [rows] for int64 `input_ids` [rows, prompt and answer so far]."""
        tail = input_ids[:, self.prompt_length :][:, -TAIL_TOKENS:]
        texts = self.tokenizer.batch_decode(tail, skip_special_tokens=True)
        finished = [FINISHED.search(text) is not None for text in texts]
        return torch.tensor(finished, device=input_ids.device)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy continuation of each prompt; `tokenizer` has to pad on the left."""
    inputs = tokenizer(
        list(prompts),
        add_special_tokens=bool(getattr(tokenizer, "add_bos_token", False)),
        padding=True,
        return_tensors="pt",
    )
    length = inputs["input_ids"].shape[1]
    output = cast("Any", model).generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        stopping_criteria=StoppingCriteriaList([FinishedAnswer(tokenizer, prompt_length=length)]),
    )
    return list(tokenizer.batch_decode(output[:, length:], skip_special_tokens=True))


def _read(held_out: Path, num_problems: int) -> list[dict[str, str]]:
    with held_out.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(num_problems), strict=False)]
    if not rows or not all({"question", "result"} <= row.keys() for row in rows):
        raise PTLError(f"{held_out}: needs at least one row, each with 'question' and 'result'")
    return rows


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, trust_remote_code=False, use_safetensors=True
    ).train(False)
    if model.config.model_type in grouped_attention.MODEL_TYPES:
        model.set_attn_implementation(grouped_attention.register())
    return model, AutoTokenizer.from_pretrained(
        folder, padding_side="left", trust_remote_code=False
    )


def _by_length(rows: list[dict[str, str]], batch_size: int) -> Iterator[list[dict[str, str]]]:
    ordered = sorted(rows, key=lambda row: len(row["question"]))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _number(text: str) -> Decimal:
    return Decimal(re.sub(r"[^\d.\-]", "", text).replace("--", "-"))
