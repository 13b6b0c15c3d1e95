"""What the plots of a study show, as values: line_drawing.py turns them into pictures."""

from __future__ import annotations

from dataclasses import dataclass

from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.spread import Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class LinePoint:
    """A run, or a round of one."""

    run: str
    x: float
    found: Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a plot, from left to right."""

    name: str
    points: tuple[LinePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinePlot:
    """A metric over an axis."""

    metric: Metric
    axis: str
    lines: tuple[Line, ...]
