"""What a speed measurement found: medians of both models, the speedup and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ptl_plugins.speed.bootstrap import interval, ratio
from ptl_plugins.speed.engine import EngineFacts
from ptl_plugins.speed.interleave import Row, Timing
from ptl_plugins.speed.machine import Machine
from ptl_plugins.speed.protocol import Protocol
from ptl_plugins.speed.weights import WeightsBound

Unit = Literal["question", "token", "pass"]
COMPARED: dict[str, tuple[tuple[str, Unit], ...]] = {
    "latency": (("latency", "question"),),
    "natural": (("natural", "question"), ("natural_token", "token")),
    "throughput": (("throughput", "token"),),
    "prefill": (("prefill", "pass"),),
    "decode": (("decode", "token"),),
}
"""By measure: what is compared, and what its seconds are seconds per."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One measure of both models; `speedup` is above 1 where the model is faster."""

    name: str
    unit: Unit
    seconds: float
    """Median over the pairs, per unit."""
    baseline_seconds: float
    speedup: float
    """Seconds of the baseline over those of the model."""
    low: float
    """Of the 95 % interval of the speedup."""
    high: float
    tokens: float
    """Mean tokens per timed pass: generated, or read in a prefill."""
    baseline_tokens: float
    num_pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedReport:
    """A measured speed, with everything it depends on."""

    protocol: Protocol
    backend: str
    model: EngineFacts
    baseline: EngineFacts
    comparisons: tuple[Comparison, ...]
    weights: WeightsBound
    machine: Machine
    notes: tuple[str, ...] = ()
    """What a reader has to know about this very measurement."""
    timings: tuple[Timing, ...] = field(default=(), repr=False)
    """The samples that everything is made of."""

    def comparison(self, name: str) -> Comparison | None:
        """Return what was found under a name such as `decode`, or None."""
        return next((one for one in self.comparisons if one.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dicts and numbers, the samples among them."""
        weights = {**asdict(self.weights), "ratio": self.weights.ratio}
        return {**asdict(self), "weights": weights}

    def metrics(self) -> dict[str, float]:
        """Return the numbers by name, such as `speed_decode_speedup`.

        Those of another protocol than `default` carry its name: `speed_paper_natural_speedup`.
        """
        prefix = "speed" if self.protocol.name == "default" else f"speed_{self.protocol.name}"
        values = {
            f"{prefix}_{one.name}_{key}": value
            for one in self.comparisons
            for key, value in _values(one)
        }
        values[f"{prefix}_weights_ratio"] = self.weights.ratio
        values[f"{prefix}_num_repeats"] = float(self.protocol.repeats)
        values[f"{prefix}_num_threads"] = float(self.machine.threads)
        return values


def compare(timings: Sequence[Timing], *, seed: int) -> tuple[Comparison, ...]:
    """Return medians, speedups and their intervals.

    Raises:
        PTLError: scipy is not installed.
    """
    return tuple(
        _comparison(timing, name, unit, seed)
        for timing in timings
        for name, unit in COMPARED[timing.measure]
    )


def pair_values(rows: Sequence[Row], unit: Unit) -> list[float]:
    """Return the seconds per unit of each repeat, or of each prompt where there is one repeat."""
    if len(rows) == 1:
        rows = [(sample,) for sample in rows[0]]
    return [_seconds(row, unit) for row in rows]


def _comparison(timing: Timing, name: str, unit: Unit, seed: int) -> Comparison:
    from statistics import median

    ours, theirs = pair_values(timing.model, unit), pair_values(timing.baseline, unit)
    low, high = interval(ours, theirs, seed=seed)
    return Comparison(
        name=name,
        unit=unit,
        seconds=median(ours),
        baseline_seconds=median(theirs),
        speedup=ratio(ours, theirs),
        low=low,
        high=high,
        tokens=_mean_tokens(timing.model),
        baseline_tokens=_mean_tokens(timing.baseline),
        num_pairs=len(ours),
    )


def _seconds(row: Row, unit: Unit) -> float:
    total = sum(sample.seconds for sample in row)
    return total / (sum(sample.num_tokens for sample in row) if unit == "token" else len(row))


def _mean_tokens(rows: Sequence[Row]) -> float:
    tokens = [sample.num_tokens for row in rows for sample in row]
    return sum(tokens) / len(tokens)


def _values(one: Comparison) -> Iterator[tuple[str, float]]:
    yield "speedup", one.speedup
    yield "speedup_low", one.low
    yield "speedup_high", one.high
    yield "seconds", one.seconds
    yield "baseline_seconds", one.baseline_seconds
    if one.name == "natural":
        yield "tokens", one.tokens
        yield "baseline_tokens", one.baseline_tokens
    if one.name == "throughput":
        yield "tokens_per_second", 1 / one.seconds
        yield "baseline_tokens_per_second", 1 / one.baseline_seconds
