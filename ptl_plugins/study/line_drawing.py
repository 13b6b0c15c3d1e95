"""Draws the plots of a study with matplotlib, as those of a report are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptl_plugins.report.drawing import (
    COLOURS,
    DPI,
    HEIGHT,
    LEGEND_COLUMNS,
    LEGEND_ROW,
    MARKERS,
    PANEL_WIDTH,
    house_style,
    to_png,
)
from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.line_plot import Line, LinePlot, LinePoint

WIDE = 10.0
"""From this ratio of the last place to the first the axis is logarithmic."""


def draw_lines(plot: LinePlot) -> bytes:
    """Return the plot as a PNG; bars are the standard deviations over seeds."""
    with house_style():
        figure = Figure(figsize=(PANEL_WIDTH * 1.4, HEIGHT), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for index, line in enumerate(plot.lines):
            _draw(axes, plot.metric, line, index)
        unit = " (%)" if plot.metric.is_share else ""
        axes.set(xlabel=plot.axis, ylabel=f"{plot.metric.name}{unit}")
        axes.grid(alpha=0.3)
        _scale(axes, plot)
        _legend(figure, axes)
        return to_png(figure)


def _scale(axes: Axes, plot: LinePlot) -> None:
    places = [point.x for line in plot.lines for point in line.points]
    if plot.axis.startswith("round"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif places and min(places) > 0 and max(places) >= WIDE * min(places):
        axes.set_xscale("log")


def _draw(axes: Axes, metric: Metric, line: Line, index: int) -> None:
    scale = 100.0 if metric.is_share else 1.0
    axes.errorbar(
        [point.x for point in line.points],
        [scale * point.found.mean for point in line.points],
        yerr=_bars(line.points, scale),
        label=line.name,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index // len(COLOURS) % len(MARKERS)],
        elinewidth=0.8,
        capsize=3,
    )


def _bars(points: Sequence[LinePoint], scale: float) -> list[float] | None:
    bars = [scale * (point.found.deviation or 0.0) for point in points]
    return bars if any(bars) else None


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        rows = -(-len(names) // LEGEND_COLUMNS)
        figure.set_figheight(HEIGHT + LEGEND_ROW * rows)
        figure.legend(handles, names, loc="outside lower center", ncols=LEGEND_COLUMNS)
