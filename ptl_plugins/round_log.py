"""Seconds, events and messages of one round as it runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from ptl_plugins.durable import digest_of_files
from ptl_plugins.run_folder import MODEL, RunFolder
from ptl_plugins.types import Cut, EvalResult, PrunePlan, RoundRecord

logger = logging.getLogger(__name__)


class RoundLog:
    """Collects what a round's record needs."""

    def __init__(self, run: RunFolder, index: int) -> None:
        self.run = run
        self.index = index
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the body's seconds to `step`; write an event when it is done."""
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[step] = self.seconds.get(step, 0.0) + elapsed
        self.run.event("step", round=self.index, step=step, seconds=round(elapsed, 3))

    def say(self, message: str) -> None:
        """Log one line, in the main rank only."""
        if self.run.writes:
            logger.info("PTL: %s", message)

    def record(
        self,
        shape: Mapping[str, int],
        cuts: Sequence[Cut] = (),
        plan: PrunePlan | None = None,
        pruned: EvalResult | None = None,
        recovered: EvalResult | None = None,
    ) -> RoundRecord:
        """Return the round's record."""
        model = self.run.round_folder(self.index) / MODEL
        return RoundRecord(
            round=self.index,
            cuts=tuple(cuts),
            plan_digest=plan.digest() if plan else None,
            model_digest=digest_of_files(model, "*.safetensors") if model.is_dir() else None,
            pruned=pruned,
            recovered=recovered,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            **shape,
        )
