"""Seconds, events and messages of one round as it runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from ptl_plugins.durable import digest_of_files
from ptl_plugins.run_folder import MODEL, RunFolder
from ptl_plugins.stage_types import StageTime
from ptl_plugins.types import Cut, EvalResult, PrunePlan, RoundRecord

logger = logging.getLogger(__name__)

RECOVER = "recover"
"""The step of all recovery stages of a round together."""


class RoundLog:
    """Collects what a round's record needs."""

    def __init__(self, run: RunFolder, index: int) -> None:
        self.run = run
        self.index = index
        self.seconds: dict[str, float] = {}
        self.stages: list[StageTime] = []
        self._inner: list[float] = []
        self._steps: list[str] = []

    @property
    def step(self) -> str:
        """The innermost step that is being timed; empty between the steps."""
        return self._steps[-1] if self._steps else ""

    def for_round(self, index: int) -> RoundLog:
        """Return an empty log of another round of the same run."""
        return RoundLog(self.run, index)

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the body's seconds to `step`, and write an event, when it is done.

        Seconds of another step inside the body are that one's alone.
        """
        start = time.perf_counter()
        self._inner.append(0.0)
        self._steps.append(step)
        try:
            yield
        finally:
            self._steps.pop()
            elapsed = time.perf_counter() - start
            own = elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
        self.seconds[step] = self.seconds.get(step, 0.0) + own
        self.run.event("step", round=self.index, step=step, seconds=round(own, 3))

    @contextlib.contextmanager
    def timed_stage(self, backend: str, devices: int | None) -> Iterator[None]:
        """Time the body as `recover`; it is one stage.

        Where the body notes no time of its own (`note_stage`), the stage took the body's.

        Args:
            backend: the stage's.
            devices: on how many it trains in this program's own processes; None: not known.
        """
        number, before = len(self.stages), self.seconds.get(RECOVER, 0.0)
        with self.timed(RECOVER):
            yield
        if len(self.stages) == number:
            took = round(self.seconds[RECOVER] - before, 3)
            self.note_stage(StageTime(backend=backend, wall_seconds=took, devices=devices))

    def note_stage(self, took: StageTime) -> None:
        """Note how long a recovery stage of the round took, in this try or an earlier one."""
        self.stages.append(took)

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
        """Return the round's record; the digests that it takes are bookkeeping."""
        model = self.run.round_folder(self.index) / MODEL
        with self.timed("bookkeeping"):
            digest = digest_of_files(model, "*.safetensors") if model.is_dir() else None
        return RoundRecord(
            round=self.index,
            cuts=tuple(cuts),
            plan_digest=plan.digest() if plan else None,
            model_digest=digest,
            pruned=pruned,
            recovered=recovered,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            stages=tuple(self.stages),
            **shape,
        )
