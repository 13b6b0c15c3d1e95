"""Cross-entropy and forward KL of the same tokens, a chunk of tokens at a time.

The gradient is worked out in the forward pass, chunk by chunk, so logits of a chunk are all that
ever exists, and neither model's lm_head runs twice. For a token with the student's distribution
q, the teacher's p and the target y, the loss and its gradient by the student's logits are

    (1 - w) * -log q[y] + w * sum(p * (log p - log q)),    q - w * p - (1 - w) * onehot(y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel

LOGITS_PER_CHUNK = 2**25
"""fp32 logits of one model that exist at once: 128 MB, whatever the vocabulary."""
IGNORED = -100
"""The label of a token that is no target."""
SOFT_CAPS = ("final_logit_softcapping", "logit_softcap")
"""Keys of the soft cap: of Gemma, and of a sliced model."""

TeacherLogits = Callable[[slice], torch.Tensor]
"""Gives the teacher's logits of a range of targets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What makes logits of hidden states: a model's lm_head and, in Gemma2, its soft cap."""

    module: nn.Module
    cap: float | None = None

    def __call__(
        self, states: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return logits [targets, vocabulary], computed with other `parameters` where given."""
        logits = functional_call(self.module, parameters or {}, (states,))
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums over the targets, in nats; `loss` alone has a gradient."""

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    divergence: torch.Tensor
    num_targets: int


def head_of(model: PreTrainedModel) -> Head:
    """Return the head of a causal language model, a sliced one's too."""
    module = cast("nn.Module", model.get_output_embeddings())
    caps = (getattr(model.config, key, None) for key in SOFT_CAPS)
    return Head(module=module, cap=next((cap for cap in caps if cap is not None), None))


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
        logits_per_chunk: a bound on the logits that exist at once, in numbers.
    """
    names = [name for name, p in head.module.named_parameters() if p.requires_grad]
    parameters = [head.module.get_parameter(name) for name in names]
    rows = max(1, logits_per_chunk // _vocabulary(head.module))
    chunks = _Chunks(
        head=head, names=names, targets=targets, teacher_logits=teacher_logits, weight=weight,
        rows=rows,
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
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_q = logits.to(wide).log_softmax(-1)
    log_p = teacher.to(wide).log_softmax(-1)
    cross_entropy = -log_q.gather(-1, targets[:, None]).sum()
    p = log_p.exp()
    divergence = log_p.sub_(log_q).mul_(p).sum()
    gradient = log_q.exp_().sub_(p, alpha=weight)
    down = torch.full_like(targets, weight - 1, dtype=wide)[:, None]
    return cross_entropy, divergence, gradient.scatter_add_(-1, targets[:, None], down)


def _vocabulary(module: nn.Module) -> int:
    return cast("torch.Tensor", module.weight).shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunks:
    """What the loss needs beside the tensors that have a gradient."""

    head: Head
    names: list[str]
    targets: torch.Tensor
    teacher_logits: TeacherLogits
    weight: float
    rows: int

    def ranges(self) -> Iterator[slice]:
        for start in range(0, len(self.targets), self.rows):
            yield slice(start, start + self.rows)


class _ChunkedLoss(torch.autograd.Function):
    """The loss of all chunks; the forward pass keeps its gradients instead of logits."""

    @staticmethod
    def forward(ctx: Any, chunks: _Chunks, states: torch.Tensor, *parameters: torch.Tensor) -> Any:
        # copies that share the data: no hook of DDP or DeepSpeed sees these gradients
        leaves = [p.detach().requires_grad_() for p in parameters]
        state_gradient = torch.zeros_like(states)
        gradients: list[torch.Tensor | None] = [None] * len(leaves)
        wide = torch.promote_types(states.dtype, torch.float32)
        sums = torch.zeros(2, dtype=wide, device=states.device)
        for part in chunks.ranges():
            ce, kl, (first, *others) = _chunk(chunks, states[part], leaves, part)
            sums += torch.stack([ce, kl])
            state_gradient[part] = first
            for index, gradient in enumerate(others):
                held = gradients[index]
                gradients[index] = gradient if held is None else held.add_(gradient)
        filled = [
            torch.zeros_like(leaf) if g is None else g
            for g, leaf in zip(gradients, leaves, strict=True)
        ]
        ctx.save_for_backward(state_gradient, *filled)
        cross_entropy, divergence = sums.unbind()
        ctx.mark_non_differentiable(cross_entropy, divergence)
        loss = (1 - chunks.weight) * cross_entropy + chunks.weight * divergence
        return loss, cross_entropy, divergence

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        return None, *(gradient * outer[0].to(gradient.dtype) for gradient in ctx.saved_tensors)


def _chunk(
    chunks: _Chunks, states: torch.Tensor, leaves: list[torch.Tensor], part: slice
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return both sums of a chunk, and the gradients of its states and the head's parameters."""
    teacher = chunks.teacher_logits(part)
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        logits = chunks.head(states, dict(zip(chunks.names, leaves, strict=True)))
    losses = token_losses(logits.detach(), teacher, chunks.targets[part], chunks.weight)
    cross_entropy, divergence, gradient = losses
    gradients = torch.autograd.grad(logits, [states, *leaves], gradient.to(logits.dtype))
    return cross_entropy, divergence, gradients
