"""What the plots show, as values: drawing.py turns them into pictures."""

from __future__ import annotations

from dataclasses import dataclass

from ptl_plugins.report.metrics import Measured, Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A round of a run."""

    round: int
    num_parameters: int
    pruned: Measured | None
    recovered: Measured | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The rounds of a run, the original first."""

    run: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A metric against the round, and against the parameters (Fig. 3)."""

    metric: Metric
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What a run's last round measured."""

    label: str
    original: Measured | None
    last: Measured | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A metric, with a bar for each run."""

    metric: Metric
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Panels side by side (Fig. 4)."""

    axis: str
    """What the runs differ in."""
    panels: tuple[Panel, ...]
