"""Cross-entropy and forward KL of the same tokens, a chunk of tokens at a time.

The gradient is worked out in the forward pass, chunk by chunk, so logits of a chunk are all that
ever exists, and neither model's lm_head runs twice. For a token with the student's distribution
q, the teacher's p and the target y, the loss and its gradient by the student's logits are

    (1 - w) * -log q[y] + w * sum(p * (log p - log q)),    q - w * p - (1 - w) * onehot(y).

Of a chunk three fp32 tensors [tokens, vocabulary] exist at once: log q, the teacher's logits and
log p, and then log q, log p and p. A soft cap keeps a fourth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from ptl_plugins.distillation.head import Head, HeadGradients, head_gradients, widened

LOGITS_PER_CHUNK = 2**25
"""Numbers in one tensor of a chunk's logits: 128 MiB in fp32, whatever the vocabulary."""
IGNORED = -100
"""The label of a token that is no target."""

TeacherLogits = Callable[[slice], torch.Tensor]
"""Gives the teacher's logits of a range of targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums over the targets, in nats; `loss` alone has a gradient, and one backward pass."""

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    divergence: torch.Tensor
    num_targets: int


def targets_of(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which states predict a target, bool [batch, length - 1], and the targets [targets]."""
    shifted = labels[:, 1:]
    is_target = shifted != IGNORED
    return is_target, shifted[is_target]


def distillation_sums(
    head: Head,
    states: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: TeacherLogits,
    *,
    weight: float,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> Sums:
    """Return the loss of all targets; its gradient reaches `states` and the head's parameters.

    Args:
        head: the student's.
        states: the student's hidden states that predict a target, [targets, hidden size].
        targets: token ids, [targets].
        teacher_logits: gives the teacher's logits, without a gradient.
        weight: of the divergence, 0 to 1; the cross-entropy has the rest.
        logits_per_chunk: a bound on one tensor of a chunk's logits, in numbers.
    """
    names = [name for name, p in head.module.named_parameters() if p.requires_grad]
    parameters = [head.module.get_parameter(name) for name in names]
    chunks = _Chunks(
        head=head, names=names, targets=targets, teacher_logits=teacher_logits, weight=weight,
        numbers=logits_per_chunk,
    )  # fmt: skip
    loss, cross_entropy, divergence = cast("Any", _ChunkedLoss).apply(chunks, states, *parameters)
    return Sums(
        loss=loss, cross_entropy=cross_entropy, divergence=divergence, num_targets=len(targets)
    )


def token_losses(
    logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy and divergence, and the loss's gradient by `logits`.

    Equal logits of both models give a divergence, and with `weight` 1 a gradient, of exactly 0.
    """
    wide = widened(logits.dtype)
    log_q, log_p = (each.log_softmax(-1, dtype=wide) for each in (logits, teacher))
    return _losses_in_place(log_q, log_p, targets, weight)


def _losses_in_place(
    log_q: torch.Tensor, log_p: torch.Tensor, targets: torch.Tensor, weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Do so from log-probabilities, both of which are overwritten: `log_q` is the gradient."""
    cross_entropy = -log_q.gather(-1, targets[:, None]).sum()
    p = log_p.exp()
    divergence = log_p.sub_(log_q).mul_(p).sum()
    gradient = log_q.exp_().sub_(p, alpha=weight)
    down = torch.full_like(targets, weight - 1, dtype=log_q.dtype)[:, None]
    return cross_entropy, divergence, gradient.scatter_add_(-1, targets[:, None], down)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunks:
    """What the loss needs beside the tensors that have a gradient."""

    head: Head
    names: list[str]
    targets: torch.Tensor
    teacher_logits: TeacherLogits
    weight: float
    numbers: int

    def ranges(self) -> Iterator[slice]:
        rows = max(1, self.numbers // self.head.vocabulary)
        for start in range(0, len(self.targets), rows):
            yield slice(start, start + rows)


class _ChunkedLoss(torch.autograd.Function):
    """The loss of all chunks; the forward pass keeps its gradients instead of logits."""

    @staticmethod
    def forward(ctx: Any, chunks: _Chunks, states: torch.Tensor, *parameters: torch.Tensor) -> Any:
        gradients = head_gradients(chunks.head, chunks.names, chunks.numbers)
        state_gradient = torch.zeros_like(states)
        sums = torch.zeros(2, dtype=widened(states.dtype), device=states.device)
        for part in chunks.ranges():
            cross_entropy, divergence, state_gradient[part] = _chunk(
                chunks, gradients, states[part], part
            )
            sums += torch.stack([cross_entropy, divergence])
        # not by save_for_backward: backward scales them where they are, which that forbids
        ctx.gradients = [state_gradient, *gradients.sums]
        ctx.dtypes = [tensor.dtype for tensor in (states, *parameters)]
        cross_entropy, divergence = sums.unbind()
        ctx.mark_non_differentiable(cross_entropy, divergence)
        loss = (1 - chunks.weight) * cross_entropy + chunks.weight * divergence
        return loss, cross_entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "the loss of distillation has one backward pass, which scales its gradients in "
                "place; compute the loss again"
            )
        scaled = (gradient.mul_(outer[0].to(gradient.dtype)) for gradient in gradients)
        return None, *(g.to(dtype) for g, dtype in zip(scaled, ctx.dtypes, strict=True))


def _chunk(
    chunks: _Chunks, gradients: HeadGradients, states: torch.Tensor, part: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both sums of a chunk and the gradient of its states; add the head's to `gradients`."""
    wide = widened(states.dtype)
    # no name for the logits: they are gone when their log-probabilities are there
    log_q = gradients.logits(states).log_softmax(-1, dtype=wide)
    log_p = chunks.teacher_logits(part).log_softmax(-1, dtype=wide)
    losses = _losses_in_place(log_q, log_p, chunks.targets[part], chunks.weight)
    del log_p  # else it would be there beside the gradient in the products below
    return losses[0], losses[1], gradients.add(losses[2])
