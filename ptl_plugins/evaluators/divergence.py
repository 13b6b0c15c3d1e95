"""Loss of a model on texts and how far it is from another: KL and agreement of the same tokens.

Both models read the same batches one after the other. Only their hidden states exist for a whole
batch; logits are made of a bounded number of tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ptl_plugins.calibration import Batch, group_by_length, pad
from ptl_plugins.distillation.head import head_of
from ptl_plugins.distillation.loss import LOGITS_PER_CHUNK, token_losses
from ptl_plugins.live import evaluating


@dataclass(frozen=True, slots=True)
class DivergenceSums:
    """Sums over predicted tokens: those of several ranks add up to those of all."""

    nll: float = 0.0
    """Of the model, in nats."""
    divergence: float = 0.0
    """KL(original || model), in nats."""
    num_agreed: int = 0
    """Tokens for which both models have the same largest logit."""
    num_tokens: int = 0

    def __add__(self, other: DivergenceSums) -> DivergenceSums:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return DivergenceSums(*(left + right for left, right in pairs))


def compare(
    model: PreTrainedModel,
    original: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> DivergenceSums:
    """Return the loss of `model` and its distance from `original`, over all tokens but the first.

    Both stay as they are: mode, dtype, device. How batches are formed and padded changes nothing
    but rounding, and not even that between equal models: their divergence is exactly 0.

    Args:
        model: any decoder with `get_decoder()` and output embeddings; not wrapped for training.
        original: a model of as many logits per token, on the same device.
        sequences: token ids; one of fewer than two predicts nothing.
        batch_tokens: padded tokens per batch; a longer sequence is a batch of its own.
        logits_per_chunk: a bound on the logits of one model that exist at once, in numbers.
    """
    rows = max(1, logits_per_chunk // head_of(model).vocabulary)
    groups = group_by_length((s for s in sequences if len(s) > 1), batch_tokens=batch_tokens)
    # a caller's autocast would round the weights that the stored dtype says exactly
    unchanged = torch.autocast(model.device.type, enabled=False)
    with evaluating(model), evaluating(original), unchanged:
        batches = (pad(group, device=model.device) for group in groups)
        return sum(
            (_compare_batch(model, original, batch, rows) for batch in batches),
            start=DivergenceSums(),
        )


def _compare_batch(
    model: PreTrainedModel, original: PreTrainedModel, batch: Batch, rows: int
) -> DivergenceSums:
    is_target = batch.attention_mask[:, 1:].bool()
    targets = batch.input_ids[:, 1:][is_target]
    ours, theirs = (_logits(one, batch, is_target) for one in (model, original))
    total = DivergenceSums()
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        total += _sums(ours(part), theirs(part), targets[part])
    return total


def _logits(model: Any, batch: Batch, is_target: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    """Run the decoder; return what gives the logits that predict a range of the targets."""
    hidden = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    # The hidden state one token earlier predicts the token.
    states, head = hidden[:, :-1][is_target], head_of(model)
    return lambda part: head(states[part])


def _sums(logits: torch.Tensor, original: torch.Tensor, targets: torch.Tensor) -> DivergenceSums:
    num_agreed = int((logits.argmax(-1) == original.argmax(-1)).sum())
    cross_entropy, divergence, _ = token_losses(logits, original, targets, 1.0)
    return DivergenceSums(float(cross_entropy), float(divergence), num_agreed, len(targets))
