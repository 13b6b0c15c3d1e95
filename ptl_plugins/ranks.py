"""The processes that work on one model: who is main, and how statistics are merged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch


class Ranks(Protocol):
    """Data-parallel processes; every method but the properties is called by all of them."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def merge(self, tensor: torch.Tensor, how: Literal["sum", "max"]) -> None:
        """Merge `tensor` of all ranks in place, in every rank."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order; values are picklable."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


class SingleProcess:
    """The only rank."""

    rank = 0
    size = 1

    def merge(self, tensor: torch.Tensor, how: Literal["sum", "max"]) -> None:
        """Leave `tensor` as it is."""

    def gather(self, value: Any) -> list[Any]:
        """Return `[value]`."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""


class TorchRanks:
    """Ranks of an initialised `torch.distributed` process group."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()

    def merge(self, tensor: torch.Tensor, how: Literal["sum", "max"]) -> None:
        """All-reduce `tensor` in place."""
        op = self._dist.ReduceOp.SUM if how == "sum" else self._dist.ReduceOp.MAX
        self._dist.all_reduce(tensor, op=op)

    def gather(self, value: Any) -> list[Any]:
        """All-gather a picklable value."""
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._dist.barrier()


def current_ranks() -> Ranks:
    """Return the ranks of the process group, or the single process where there is none."""
    import torch.distributed as dist

    return TorchRanks() if dist.is_available() and dist.is_initialized() else SingleProcess()


@contextlib.contextmanager
def main_first(ranks: Ranks) -> Iterator[bool]:
    """Run the body's work in the main rank only (`if main:`), then let all ranks go on."""
    yield ranks.rank == 0
    ranks.barrier()


def require_equal(ranks: Ranks, value: str, what: str) -> None:
    """Assert that all ranks hold the same `value`: a fault of ours where they do not."""
    values = ranks.gather(value)
    if len(set(values)) != 1:
        raise AssertionError(f"ranks disagree on {what}: {values}")
