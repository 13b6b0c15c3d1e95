"""Whether a training is still one: pure functions over what it told of its steps.

A training is ill when its loss is not finite, when the loss rises and stays up, when gradient norms
stay too large or not finite, and when the answers that it generates collapse. Only the standard
library is imported, and a step costs the same however many came before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OnDivergence = Literal["stop", "retry_with_half_step"]
"""What is done with a round whose training diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthSpec:
    """From where on a training counts as diverged; each bound has to be passed `steps` times."""

    steps: int = 5
    """Steps in a row, among those that the training tells of."""
    loss_rise: float = 3.0
    """Nats (of the mean loss per token) above the lowest level that the training had reached."""
    gradient_norm: float = 1e4
    """Before clipping."""
    length_ratio: float = 0.1
    """Tokens of the generated answers, relative to the first steps'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a training told of one of its steps; None: it did not tell."""

    step: int
    loss: float | None = None
    """In nats per token."""
    gradient_norm: float | None = None
    length: float | None = None
    """Mean tokens of the answers that were generated."""
    reward: float | None = None
    """Mean reward of these answers."""
    other: Mapping[str, float] = field(default_factory=dict)
    """Further losses by name, of which only it is asked whether they are finite."""
    mean_loss: float | None = None
    """Of the whole training, which only its end tells."""


class HealthWatch:
    """Looks at a training's steps one by one."""

    def __init__(self, limits: HealthSpec, *, vocabulary: int | None = None) -> None:
        """Begin.

        Args:
            limits: what is allowed.
            vocabulary: tokens that the model knows: its logarithm is the loss of mere guessing.
        """
        self._limits = limits
        self._loss = _LossLevel(limits, math.log(vocabulary) if vocabulary else None)
        self._length = _AnswerLength(limits)
        self._gradients = _Row(limits.steps)

    def see(self, step: Step) -> str | None:
        """Return what is wrong with the training as of this step, or None."""
        return (
            _not_finite(step)
            or self._loss.see(step)
            or self._see_gradients(step)
            or self._length.see(step)
        )

    def _see_gradients(self, step: Step) -> str | None:
        """A single one that overflowed is no harm: mixed precision then leaves out its step."""
        norm, limit = step.gradient_norm, self._limits.gradient_norm
        if norm is None:
            return None
        since = self._gradients.add(step.step, is_bad=not norm <= limit)  # NaN is bad
        if since is None:
            return None
        what = f"above {limit:g} (health.gradient_norm)" if math.isfinite(norm) else "not finite"
        return f"the gradient norm is {norm:.4g}, {what} since step {since}"


def first_trouble(
    steps: Iterable[Step], limits: HealthSpec, *, vocabulary: int | None = None
) -> str | None:
    """Return what went wrong first in a training, or None; arguments as of `HealthWatch`."""
    watch = HealthWatch(limits, vocabulary=vocabulary)
    return next((found for step in steps if (found := watch.see(step))), None)


def as_settings(limits: HealthSpec, vocabulary: int | None) -> dict[str, Any]:
    """Return what a watch is made of as plain values, for a training in another process."""
    return {"limits": asdict(limits), "vocabulary": vocabulary}


def watch_of(settings: Mapping[str, Any]) -> HealthWatch:
    """Return the watch that `as_settings` describes."""
    return HealthWatch(HealthSpec(**settings["limits"]), vocabulary=settings["vocabulary"])


class _Row:
    """Counts bad steps in a row."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._bad: list[int] = []

    def add(self, step: int, *, is_bad: bool) -> int | None:
        """Return the first step of the row once it is long enough, else None."""
        if not is_bad:
            self._bad.clear()
        elif len(self._bad) < self._length:
            self._bad.append(step)
        return self._bad[0] if len(self._bad) == self._length else None


class _LossLevel:
    """The lowest level of the loss so far: what it has to stay near."""

    def __init__(self, limits: HealthSpec, guessing: float | None) -> None:
        self._rise = limits.loss_rise
        self._guessing = guessing
        self._better = False
        """Whether the model ever did better than guessing."""
        self._lowest = math.inf
        self._recent: deque[float] = deque(maxlen=limits.steps)
        self._row = _Row(limits.steps)

    def see(self, step: Step) -> str | None:
        if step.mean_loss is not None:
            return self._at_the_end(step.step, step.mean_loss)
        if step.loss is None:
            return None
        level = self._level()
        is_bad = step.loss > level + self._rise
        since = self._row.add(step.step, is_bad=is_bad)
        if not is_bad:  # a level is a mean: a single easy step is none
            self._note(step.loss)
        if since is None:
            return None
        return (
            f"the loss is {step.loss:.4g}, and since step {since} more than {self._rise:g} "
            f"(health.loss_rise) above the {level:.4g} that it had come to"
        )

    def _level(self) -> float:
        guessing = self._guessing if self._better and self._guessing is not None else math.inf
        return min(self._lowest, guessing)

    def _note(self, loss: float) -> None:
        self._better = self._better or (self._guessing is not None and loss < self._guessing)
        self._recent.append(loss)
        if len(self._recent) == self._recent.maxlen:
            self._lowest = min(self._lowest, sum(self._recent) / len(self._recent))

    def _at_the_end(self, step: int, mean: float) -> str | None:
        """A training that told of too few steps is judged by its mean alone."""
        if self._guessing is None or mean <= self._guessing + self._rise:
            return None
        return (
            f"the mean loss of all {step} steps is {mean:.4g}, more than {self._rise:g} "
            f"(health.loss_rise) above the {self._guessing:.4g} of mere guessing"
        )


class _AnswerLength:
    """The first steps' answers, whose length the later ones must not fall far below."""

    def __init__(self, limits: HealthSpec) -> None:
        self._limits = limits
        self._first: list[Step] = []
        self._row = _Row(limits.steps)

    def see(self, step: Step) -> str | None:
        if step.length is None:
            return None
        if len(self._first) < self._limits.steps:
            self._first.append(step)
            return None
        usual = _mean(step.length for step in self._first if step.length is not None)
        short = step.length < self._limits.length_ratio * usual
        since = self._row.add(step.step, is_bad=short and not self._pays(step))
        if since is None:
            return None
        return (
            f"the generated answers have {step.length:.4g} tokens, since step {since} less than "
            f"{self._limits.length_ratio:g} (health.length_ratio) of the first steps' {usual:.4g}"
        )

    def _pays(self, step: Step) -> bool:
        """Whether short answers are the better ones: a model may have rambled before."""
        before = [each.reward for each in self._first if each.reward is not None]
        return bool(before) and step.reward is not None and step.reward > _mean(before)


def _not_finite(step: Step) -> str | None:
    losses = {"loss": step.loss, "mean loss": step.mean_loss, **step.other}
    for name, value in losses.items():
        if value is not None and not math.isfinite(value):
            return f"the {name} is not finite at step {step.step}"
    return None


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
