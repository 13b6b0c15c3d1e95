"""Sampling from a plain transformers model: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0: always the likeliest."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    log_probs: bool = False
    """Whether they are wanted."""
    eos: tuple[int, ...] = ()
    """Tokens that end an answer, which they belong to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One sampled sequence, without its prompt."""

    tokens: list[int]
    log_probs: list[float] | None
    """Of each token, under the distribution that it was drawn from (as vLLM's processed ones)."""


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
) -> list[Answer]:
    """Return an answer to each prompt.

    Args:
        model: a causal language model of transformers.
        prompts: token ids; shorter ones are padded on the left.
        limits: tokens of each answer, at most.
        sampling: of all of them.
    """
    length = max(map(len, prompts))
    pad = sampling.eos[0] if sampling.eos else 0
    ids = torch.tensor([[pad] * (length - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (length - len(each)) + [1] * len(each) for each in prompts])
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max(limits),
        pad_token_id=pad,
        eos_token_id=list(sampling.eos) or None,
        return_dict_in_generate=True,
        output_scores=sampling.log_probs,
        **_choice(sampling),
    )
    new = output.sequences[:, length:]
    rows = _log_probs(output.scores, new).tolist() if sampling.log_probs else [None] * len(new)
    return [
        _cut(tokens, row, limit, sampling.eos)
        for tokens, row, limit in zip(new.tolist(), rows, limits, strict=True)
    ]


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature <= 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": sampling.top_k,
    }


def _log_probs(scores: Sequence[torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probability [batch, new] of each token, a step at a time."""
    steps = [
        torch.log_softmax(step.float(), dim=-1).gather(-1, tokens[:, index, None])
        for index, step in enumerate(scores)
    ]
    return torch.cat(steps, dim=-1)


def _cut(
    tokens: list[int], log_probs: list[float] | None, limit: int, eos: tuple[int, ...]
) -> Answer:
    ends = (index + 1 for index, token in enumerate(tokens) if token in eos)
    length = min(next(ends, len(tokens)), limit)
    return Answer(tokens=tokens[:length], log_probs=log_probs and log_probs[:length])
