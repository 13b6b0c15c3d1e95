"""Worked answers as tokens: which belong to the answer, which to its results.

Documents are tokenized as LLaMA-Factory's `stage: pt` does it: `prompt + answer + eos_token` as
one string without special tokens of the tokenizer's own, with a BOS in front only where the
tokenizer says `add_bos_token`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CURRENCY = "[$\u00a3\u20ac]"
RESULT = re.compile(
    rf"(?:(?<![<>!])=|####)\s*(?:-?{CURRENCY}\s*)?"
    r"(-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?)"
)
MORE_TO_COMPUTE = re.compile(rf"\s*(?:[+*\u00d7\u00f7=]|[-x/(]\s*{CURRENCY}?[\d(.])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A prompt and its true worked answer; their concatenation is the training document."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A problem as tokens."""

    token_ids: list[int]
    first: int
    """Index of the first answer token."""
    steps: list[list[int]]
    """Per result the indices of its tokens; results that were cut off are left out."""
    truncated: bool

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


def step_spans(answer: str) -> list[tuple[int, int]]:
    """Return the character spans [start, stop) of the results in a worked answer.

    A result is the number after `=` or `####`, without currency and unit; a number that goes on
    being computed with (`= 24 - 3 = 21`: 24) is none. In GSM8K's `48/2 = <<48/2=24>>24` it is
    the number inside the annotation, once.
    """
    return [
        found.span(1)
        for found in RESULT.finditer(answer)
        if not MORE_TO_COMPUTE.match(answer, found.end())
    ]


def encode(problem: Problem, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Document:
    """Tokenize prompt and answer as one string; a token belongs to all that it overlaps.

    Args:
        problem: what to tokenize.
        tokenizer: a fast one, for its offsets.
        max_length: tokens the document is cut to.
    """
    text = problem.prompt + problem.answer + (tokenizer.eos_token or "")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token_id is not None:
        token_ids, offsets = [tokenizer.bos_token_id, *token_ids], [(0, 0), *offsets]
    start = len(problem.prompt)
    # The very first token has nothing before it that could predict it.
    first = max(1, sum(stop <= start for _, stop in offsets))
    steps = [
        [index for index, (a, b) in enumerate(offsets) if a < start + stop and b > start + begin]
        for begin, stop in step_spans(problem.answer)
    ]
    return Document(
        token_ids=token_ids[:max_length],
        first=first,
        steps=[step for step in steps if step[0] >= first and step[-1] < max_length],
        truncated=len(token_ids) > max_length,
    )
