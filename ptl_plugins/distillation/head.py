"""A model's lm_head a chunk of tokens at a time, and the sum of the gradients of all chunks.

A head that is a plain `nn.Linear`, as those of all families are, adds every chunk to one buffer
of its gradient. Any other head has autograd make a whole gradient per chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from transformers import PreTrainedModel

SOFT_CAPS = ("final_logit_softcapping", "logit_softcap")
"""Keys of the soft cap: of Gemma, and of a sliced model."""


class HeadGradients(Protocol):
    """Logits of one chunk after the other, and the gradients of the head's parameters.

    `sums` has one tensor per parameter, in fp32 at least: a sum of many chunks in bf16 loses more
    the more chunks there are.
    """

    sums: list[torch.Tensor]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of a chunk, [tokens, vocabulary], without a graph."""
        ...

    def add(self, gradient: torch.Tensor) -> torch.Tensor:
        """Add the chunk's part to `sums`; return the gradient by the chunk's states.

        Args:
            gradient: by the logits that were returned last, in fp32 at least; is overwritten.
        """
        ...


def head_of(model: PreTrainedModel) -> Head:
    """Return the head of a causal language model, a sliced one's too."""
    module = cast("nn.Module", model.get_output_embeddings())
    caps = (getattr(model.config, key, None) for key in SOFT_CAPS)
    return Head(module=module, cap=next((cap for cap in caps if cap is not None), None))


def head_gradients(head: Head, names: Sequence[str], numbers: int) -> HeadGradients:
    """Return what adds up the gradients of a head's parameters.

    Args:
        head: the student's.
        names: of the parameters that are trained.
        numbers: how many numbers of a gradient may exist beside the sum, where the head is plain.
    """
    if head.is_linear:
        return _LinearGradients(head, names, numbers)
    return _AnyGradients(head, names)


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return what sums of `dtype` are kept in: fp32, or fp64 of fp64."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What makes logits of hidden states: a model's lm_head and, in Gemma2, its soft cap."""

    module: nn.Module
    cap: float | None = None

    def __call__(
        self, states: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return logits [targets, vocabulary], computed with other `parameters` where given."""
        logits: torch.Tensor = functional_call(self.module, parameters or {}, (states,))
        if self.cap is None:
            return logits
        logits = logits / self.cap  # step by step: two tensors exist at once, not three
        logits = torch.tanh(logits)
        return logits * self.cap

    @property
    def is_linear(self) -> bool:
        """Whether its output is states times weight plus bias, and nothing else."""
        hooks = self.module._forward_hooks or self.module._forward_pre_hooks
        return type(self.module) is nn.Linear and not hooks

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return cast("torch.Tensor", self.module.weight).shape[0]


class _LinearGradients:
    """Of a plain head: no chunk makes a whole gradient of its own."""

    def __init__(self, head: Head, names: Sequence[str], numbers: int) -> None:
        module = cast("nn.Linear", head.module)
        self._cap = head.cap
        # cast once for all chunks: what autocast would do once per chunk without a graph
        self._dtype = _computed_in(module.weight)
        self._weight = module.weight.detach().to(self._dtype)
        self._bias = None if module.bias is None else module.bias.detach().to(self._dtype)
        self._rows = max(1, numbers // module.in_features)
        self.sums = [_zeros_of(module.get_parameter(name)) for name in names]
        self._sum_of = dict(zip(names, self.sums, strict=True))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        self._states = states.to(self._dtype)
        logits = functional.linear(self._states, self._weight, self._bias)
        if self._cap is None:
            return logits
        self._tanh = logits.div_(self._cap).tanh_()
        return self._tanh * self._cap

    def add(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._cap is not None:
            gradient.mul_(self._tanh.to(gradient.dtype).square_().neg_().add_(1))
        if "bias" in self._sum_of:
            self._sum_of["bias"].add_(gradient.sum(0))
        narrow = gradient.to(self._dtype)
        if "weight" in self._sum_of:
            self._add_to_weight(self._sum_of["weight"], narrow)
        return narrow @ self._weight

    def _add_to_weight(self, total: torch.Tensor, gradient: torch.Tensor) -> None:
        if total.dtype == gradient.dtype:
            total.addmm_(gradient.T, self._states)
            return
        # a product of bf16 is bf16, so it cannot be added while it is made: some rows at a time
        for part in (slice(at, at + self._rows) for at in range(0, len(total), self._rows)):
            total[part].add_(gradient[:, part].T @ self._states)


class _AnyGradients:
    """Of any head, by autograd."""

    def __init__(self, head: Head, names: Sequence[str]) -> None:
        self._head = head
        parameters = [head.module.get_parameter(name) for name in names]
        # copies that share the data: no hook of DDP or DeepSpeed sees these gradients
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        self._leaves = dict(zip(names, leaves, strict=True))
        self.sums = [_zeros_of(parameter) for parameter in parameters]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            self._states = states.detach().requires_grad_()
            self._logits = self._head(self._states, self._leaves)
        return self._logits.detach()

    def add(self, gradient: torch.Tensor) -> torch.Tensor:
        inputs = [self._states, *self._leaves.values()]
        gradient = gradient.to(self._logits.dtype)
        first, *others = torch.autograd.grad(self._logits, inputs, gradient)
        for total, other in zip(self.sums, others, strict=True):
            total.add_(other)
        return first


def _computed_in(weight: torch.Tensor) -> torch.dtype:
    """Return the dtype that a product with `weight` has here; autocast leaves fp64 alone."""
    kind = weight.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def _zeros_of(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter, dtype=widened(parameter.dtype), requires_grad=False)
