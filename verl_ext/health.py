"""What the line that a GRPO stage notes of each training step tells of the training's health.

A loss of GRPO is around 0 whatever the model does; its KL divergences, gradient norms, and the
length of the answers tell more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.health import Step
from ptl_plugins.training_steps import read_steps

LOSSES = {"kl": "KL divergence", "policy_kl": "policy's KL divergence"}
"""Fields that are asked whether they are finite, and what they are called."""


def steps_of(path: Path | None) -> Iterator[Step]:
    """Yield the steps of a `steps.jsonl`; none where there is no file."""
    if path is not None:
        yield from map(step_of, read_steps(path))


def step_of(line: Mapping[str, Any]) -> Step:
    """Return what one line tells; what it calls not finite is NaN."""
    ill = line.get("not_finite") or []
    facts: dict[str, Any] = {
        name: math.nan if name in ill else line.get(name) for name in {*line, *ill}
    }
    return Step(
        step=int(line.get("step", 0)),
        gradient_norm=facts.get("gradient_norm"),
        length=facts.get("response_length"),
        reward=facts.get("reward"),
        other={told: facts[name] for name, told in LOSSES.items() if facts.get(name) is not None},
    )
