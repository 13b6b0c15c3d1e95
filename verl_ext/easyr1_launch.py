"""Starts EasyR1 with a line of notes per training step; a program that stands alone.

    PYTHON easyr1_launch.py CONFIG.yaml STEPS.jsonl

in an interpreter with EasyR1's dependencies, the clone on PYTHONPATH. EasyR1 has no hooks, so
that its trainer is replaced by a subclass before its `main` is called; everything else is its own
(tried with 0.3.3.dev0, commit b44b311, and 0.3.2). The subclass reaches the process that trains
because Ray pickles EasyR1's `Runner` by value, with the names that it uses: its module holds
Ray's wrapper under that name. Nothing of a worker is replaced: what a run needs, each has.

It also sees to two things that EasyR1 does not: the clone is importable in the processes of a Ray
cluster that ran before, and `trainer.max_steps` is the most steps, never more than the epochs.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "ptl"
"""Of the logger among EasyR1's."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    "reward": ("critic/rewards/mean",),
    "reward_min": ("critic/rewards/min",),
    "reward_max": ("critic/rewards/max",),
    "kl": ("actor/kl_loss", "actor/kl_penalty"),
    "policy_kl": ("actor/ppo_kl",),
    "clip_fraction": ("actor/pg_clipfrac_higher",),
    "entropy": ("actor/entropy_loss",),
    "gradient_norm": ("actor/grad_norm",),
    "learning_rate": ("actor/lr",),
    "response_length": ("response_length/mean",),
    "response_cut": ("response_length/clip_ratio",),
    "rollout_correlation": (),
    "seconds": ("timing_s/step",),
}
"""A field of a line, as of the backend `verl`, and the names that EasyR1 may have for it."""


def main(arguments: list[str]) -> int:
    """Run EasyR1 to its end; return 2, with a line on stderr, where it is not EasyR1."""
    if len(arguments) != 2:
        return _refuse(f"usage: {sys.executable} {__file__} CONFIG.yaml STEPS.jsonl")
    config, steps = (Path(word).resolve() for word in arguments)
    if problem := package_problem():
        return _refuse(problem)
    import ray
    import verl.trainer.main as entry

    entry.RayPPOTrainer = noting_trainer(entry.RayPPOTrainer, steps)
    ray.init = with_variables(ray.init, {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    sys.argv[1:] = [f"config={json.dumps(str(config))}"]  # OmegaConf reads the value as YAML
    entry.main()
    return 0


def package_problem() -> str | None:
    """Return why what is called verl here is not EasyR1, in one line, or None; import nothing."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:  # None: a folder that has its name
        return f"EasyR1 is not importable in {sys.executable}: put its clone on PYTHONPATH"
    trainer = Path(spec.origin).parent / "trainer"
    if (trainer / "main_ppo.py").is_file():
        return f"{trainer.parent} is verl, not EasyR1: put EasyR1's clone first on PYTHONPATH"
    if not (trainer / "main.py").is_file():
        return f"{trainer.parent} is not EasyR1: put its clone first on PYTHONPATH"
    return None


def noting_trainer(trainer: type[Any], steps: Path) -> type[Any]:
    """Return EasyR1's trainer with a logger of PTL's beside those of its config."""

    class NotingTrainer(trainer):  # type: ignore[misc]
        """Notes each step in a file."""

        def __init__(self, *args: Any, **keys: Any) -> None:
            super().__init__(*args, **keys)
            limit_steps(self)

        def fit(self) -> None:
            from verl.utils.logger.logger import LOGGERS

            LOGGERS[NAME] = functools.partial(StepNotes, steps)
            self.config.trainer.logger = [*self.config.trainer.logger, NAME]
            super().fit()

    return NotingTrainer


def limit_steps(trainer: Any) -> None:
    """Make the epochs the most that `max_steps` can ask for; EasyR1 would begin another."""
    data, batches = trainer.config.data, len(trainer.train_dataloader)
    if data.mini_rollout_batch_size is not None:
        batches = batches * data.mini_rollout_batch_size // data.rollout_batch_size
    most = batches * trainer.config.trainer.total_epochs
    trainer.training_steps = min(trainer.training_steps, most)
    trainer.config.worker.actor.optim.training_steps = trainer.training_steps


class StepNotes:
    """A logger in EasyR1's form: one JSON object per step, appended in one write."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """Begin anew: a stage does not resume."""
        del config
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Append a training step; what a validation alone measured is passed over."""
        facts = step_facts(data)
        if any(value is not None for value in facts.values()):
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **facts}) + "\n")

    def finish(self) -> None:
        """There is nothing to close."""


def step_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a line; what EasyR1 did not measure, or no number, is null.

    Which of them were measured and are not finite stands in `not_finite`, where there are any.
    """
    found = {
        field: next((_number(data[name]) for name in names if name in data), None)
        for field, names in FIELDS.items()
    }
    ill = [name for name, value in found.items() if value is not None and not math.isfinite(value)]
    facts = {field: None if field in ill else value for field, value in found.items()}
    return {**facts, "not_finite": ill} if ill else facts


def with_variables(init: Callable[..., Any], variables: Mapping[str, str]) -> Callable[..., Any]:
    """Return `ray.init` that gives every process of the job these variables as well."""

    def start(*args: Any, **keys: Any) -> Any:
        environment = dict(keys.pop("runtime_env", None) or {})
        environment["env_vars"] = {**environment.get("env_vars", {}), **variables}
        return init(*args, runtime_env=environment, **keys)

    return start


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _refuse(line: str) -> int:
    sys.stderr.write(line + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
