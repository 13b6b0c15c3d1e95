"""What PTL knows in one training process, from the parsed yaml to the last save."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llamafactory_ext.reload import ModelLoader
from ptl_plugins.manager import PTLPluginManager
from ptl_plugins.preflight import Plan
from ptl_plugins.ranks import current_ranks
from ptl_plugins.registry import Registry
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.types import RoundContext, RoundSpec


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The corpus as LLaMA-Factory preprocessed it, part by part."""

    rows: tuple[range, ...]
    """Per round, its rows of the train data set."""
    sequences: tuple[Sequence[Sequence[int]], ...]
    """Per round, the token ids of its calibration sequences."""
    order: tuple[int, ...] = ()
    """Whose part each round has, where rounds are smaller steps of others; empty: its own."""

    def for_rounds(self, rounds: Sequence[RoundSpec]) -> Parts:
        """Return the same parts for these rounds of their run: a smaller step has its round's."""
        return replace(self, order=tuple(spec.planned for spec in rounds))

    def digest(self) -> str:
        """Return a SHA-256 of the parts' sizes and of their first sequences."""
        return hashlib.sha256(repr((self.rows, self.sequences)).encode()).hexdigest()

    def calibration(self, round_index: int) -> Sequence[Sequence[int]]:
        """Return the calibration sequences of a round, which counts from 1."""
        return self.sequences[self._place(round_index)]

    def rows_of(self, round_index: int) -> range:
        """Return the rows of a round's part, which counts from 1."""
        return self.rows[self._place(round_index)]

    def _place(self, round_index: int) -> int:
        return (self.order[round_index - 1] if self.order else round_index) - 1


@dataclass(kw_only=True)
class Session:
    """The run in this process; `parts` is filled in when LLaMA-Factory loads the data."""

    plan: Plan
    manager: PTLPluginManager
    registry: Registry
    run: RunFolder
    parts: Parts | None = field(default=None)
    loader: ModelLoader = field(default_factory=ModelLoader)

    def context(self) -> RoundContext:
        """Return the context of round 0; the process group must be up."""
        assert self.parts is not None, "LLaMA-Factory did not load its data through the seam"
        return RoundContext(
            spec=RoundSpec(index=0, cuts=()),
            recipe=self.plan.recipe,
            run=self.run,
            registry=self.registry,
            corpus=self.parts.for_rounds(self.plan.recipe.rounds),
            ranks=current_ranks(),
            hooks=self.manager.hook,
            original=self.plan.original,
            log=RoundLog(self.run, 0),
        )
