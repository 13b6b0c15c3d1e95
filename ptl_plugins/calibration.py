"""Token sequences become batches: sorted by length, cut by a token budget, padded right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ptl_plugins.ranks import Ranks

S = TypeVar("S", bound=Sized)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """`input_ids` and `attention_mask`, both int64 [sequences, length]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def group_by_length(sequences: Iterable[S], *, batch_tokens: int) -> Iterator[list[S]]:
    """Yield groups of similar length whose padded size stays within `batch_tokens`.

    Empty sequences are left out; a sequence longer than the budget is a group of its own.
    """
    group: list[S] = []
    for sequence in sorted((s for s in sequences if len(s)), key=len, reverse=True):
        longest = len(group[0]) if group else len(sequence)
        if group and longest * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group


class Batches(Sequence[Batch]):
    """Right-padded batches of sequences, made one at a time whenever they are asked for."""

    def __init__(
        self, sequences: Sequence[Sequence[int]], *, batch_tokens: int, device: torch.device
    ) -> None:
        self.groups = list(group_by_length(sequences, batch_tokens=batch_tokens))
        self.device = device

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("batches are taken one at a time")
        return pad(self.groups[index], device=self.device)


def rank_batches(
    sequences: Sequence[Sequence[int]], ranks: Ranks, *, batch_tokens: int, device: torch.device
) -> Batches:
    """Return the batches of this rank's share: of all ordered by length, each `size`-th."""
    share = sorted(sequences, key=len, reverse=True)[ranks.rank :: ranks.size]
    return Batches(share, batch_tokens=batch_tokens, device=device)


def pad(group: Sequence[Sequence[int]], *, device: torch.device) -> Batch:
    """Return one batch; padding is token 0 under mask 0, so its value does not matter."""
    length = max(len(sequence) for sequence in group)
    input_ids = torch.zeros(len(group), length, dtype=torch.long)
    mask = torch.zeros(len(group), length, dtype=torch.long)
    for row, sequence in enumerate(group):
        input_ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Batch(input_ids=input_ids.to(device), attention_mask=mask.to(device))
