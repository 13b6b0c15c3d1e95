"""Ends a training that diverges, at the log in which it shows.

The end of the stage is what judges; the callback only saves the steps until then. It looks at what
the Trainer logs, which is the same on every rank, so that all of them stop at the same step.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llamafactory_ext.history import step_of
from llamafactory_ext.patches import HEALTH
from ptl_plugins.health import HealthWatch, watch_of

logger = logging.getLogger("ptl_plugins.health")


class StopsWhenDiverged(TrainerCallback):
    """Asks the Trainer to stop at the first sign that its watch takes for a divergence."""

    def __init__(self, watch: HealthWatch) -> None:
        self._watch = watch
        self._stopped = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Have a loss that is not finite logged as it is; the Trainer would log another."""
        args.logging_nan_inf_filter = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the newest entry."""
        step = step_of({"step": state.global_step, **(logs or {})})
        if step is None or self._stopped or not (found := self._watch.see(step)):
            return
        self._stopped = control.should_training_stop = True
        if state.is_world_process_zero:
            logger.warning("PTL: the training stops here: %s", found)


def watched_trainer(base: type[Trainer]) -> type[Trainer]:
    """Return a subclass of LLaMA-Factory's trainer that a stage of `ptl run` trains with."""

    class WatchedTrainer(base):  # type: ignore[misc, valid-type]
        """Has the callback that the stage's environment describes."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(StopsWhenDiverged(watch_of(json.loads(os.environ[HEALTH]))))

    return WatchedTrainer
