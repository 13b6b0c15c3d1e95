"""Teacher-forced metrics of worked answers: loss per token, and which results come out right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ptl_plugins.calibration import group_by_length, pad
from ptl_plugins.distillation.head import head_of
from ptl_plugins.errors import PTLError
from ptl_plugins.evaluators.worked_answer import Document, Problem, encode, step_spans

__all__ = ["ChainOfThoughtCounts", "Problem", "count_chain_of_thought", "metrics", "step_spans"]

LOGITS_PER_CHUNK = 2**26
"""fp32 logits that exist at once: 256 MB, whatever the vocabulary."""


@dataclass(frozen=True, slots=True)
class ChainOfThoughtCounts:
    """Sums over problems: those of several ranks add up to those of all."""

    nll_sum: float = 0.0
    """Nats over all answer tokens, the EOS among them."""
    num_tokens: int = 0
    steps_right: int = 0
    num_steps: int = 0
    num_problems: int = 0
    num_truncated: int = 0
    """Problems longer than `max_length`: their tokens and steps beyond it are not counted."""

    def __add__(self, other: ChainOfThoughtCounts) -> ChainOfThoughtCounts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ChainOfThoughtCounts(*(left + right for left, right in pairs))


def count_chain_of_thought(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    batch_tokens: int = 4096,
    max_length: int = 1024,
) -> ChainOfThoughtCounts:
    """Return the loss of the answers and how many of their results the model gets right.

    A result is right when, given the true text before each of its tokens, every one of them has
    the largest logit. The model stays as it is: mode, dtype, device. Batches are formed by length
    with at most `batch_tokens` padded tokens; they change nothing but rounding.

    Args:
        model: any decoder with `get_decoder()` and output embeddings; not wrapped for training.
        tokenizer: a fast one, for its offsets.
        problems: may be empty.
        batch_tokens: padded tokens per batch; a longer document is a batch of its own.
        max_length: documents are cut to this many tokens; `num_truncated` says how many were.

    Raises:
        PTLError: the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise PTLError("chain-of-thought metrics need a fast tokenizer (tokenizer.json)")
    documents = [encode(problem, tokenizer, max_length=max_length) for problem in problems]
    groups = group_by_length(documents, batch_tokens=batch_tokens)
    was_training = model.training
    model.train(False)
    try:
        return sum(
            (_count_batch(model, batch) for batch in groups),
            start=ChainOfThoughtCounts(),
        )
    finally:
        model.train(was_training)


def metrics(counts: ChainOfThoughtCounts) -> dict[str, float]:
    """Return `cot_loss` (nats per answer token), `step_accuracy` (0 to 1) and the sample sizes.

    Without a single result in the answers `step_accuracy` is left out.

    Raises:
        PTLError: no answer token was counted.
    """
    if not counts.num_tokens:
        raise PTLError(
            f"no answer token in {counts.num_problems} problems, {counts.num_truncated} of them "
            "cut: give longer sequences (max_length) or problems with answers"
        )
    values = {"cot_loss": counts.nll_sum / counts.num_tokens}
    if counts.num_steps:
        values["step_accuracy"] = counts.steps_right / counts.num_steps
    for name in ("num_problems", "num_tokens", "num_steps", "num_truncated"):
        values[name] = float(getattr(counts, name))
    return values


@torch.inference_mode()
def _count_batch(model: Any, batch: Sequence[Document]) -> ChainOfThoughtCounts:
    padded = pad([document.token_ids for document in batch], device=model.device)
    hidden = model.get_decoder()(
        input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False
    ).last_hidden_state
    is_target = padded.attention_mask.bool()
    for row, document in enumerate(batch):
        is_target[row, : document.first] = False
    # The hidden state one token earlier predicts the token.
    nll, right = _judge(model, hidden[:, :-1][is_target[:, 1:]], padded.input_ids[is_target])
    is_right = torch.zeros_like(is_target)
    is_right[is_target] = right
    verdicts = is_right.tolist()
    steps = [(row, step) for row, document in enumerate(batch) for step in document.steps]
    return ChainOfThoughtCounts(
        nll_sum=nll,
        num_tokens=int(is_target.sum()),
        steps_right=sum(all(verdicts[row][index] for index in step) for row, step in steps),
        num_steps=len(steps),
        num_problems=len(batch),
        num_truncated=sum(document.truncated for document in batch),
    )


def _judge(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the summed loss in nats and bool [targets], for `hidden` [targets, hidden size]."""
    head = head_of(model)
    rows = max(1, LOGITS_PER_CHUNK // len(model.get_output_embeddings().weight))
    total, right = 0.0, [torch.zeros(0, dtype=torch.bool, device=targets.device)]
    for states, truth in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
        logits = head(states).float()
        chosen = logits.gather(1, truth[:, None]).squeeze(1)
        total += float((logits.logsumexp(1) - chosen).double().sum())
        right.append(logits.argmax(1) == truth)
    return total, torch.cat(right)
