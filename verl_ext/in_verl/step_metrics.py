"""What of verl's metrics a step's line holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

FIELDS: Mapping[str, tuple[str, ...]] = {
    "reward": ("critic/rewards/mean",),
    "reward_min": ("critic/rewards/min",),
    "reward_max": ("critic/rewards/max",),
    "kl": ("actor/kl_loss",),
    "policy_kl": ("actor/ppo_kl",),
    "clip_fraction": ("actor/pg_clipfrac",),
    "entropy": ("actor/entropy",),
    "gradient_norm": ("actor/grad_norm",),
    "learning_rate": ("actor/lr",),
    "response_length": ("response_length/mean",),
    "response_cut": ("response_length/clip_ratio",),
    "rollout_correlation": ("training/rollout_actor_probs_pearson_corr",),
    "seconds": ("timing_s/step",),
}
"""Our field, and the names that verl may have for it; the first that it has is taken."""


def step_line(step: int, metrics: Mapping[str, Any]) -> str:
    """Return one line of JSON; what verl did not measure, or no number, is null.

    Which of them were measured and are not finite stands in `not_finite`, where there are any.
    """
    found = {
        field: next((_number(metrics[name]) for name in names if name in metrics), None)
        for field, names in FIELDS.items()
    }
    ill = [field for field, value in found.items() if value is not None and not isfinite(value)]
    facts = {field: None if field in ill else value for field, value in found.items()}
    return json.dumps({"step": step, **facts, **({"not_finite": ill} if ill else {})}) + "\n"


def append_line(path: Path, line: str) -> None:
    """Append a line in one write, so that a killed process leaves whole ones but the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
