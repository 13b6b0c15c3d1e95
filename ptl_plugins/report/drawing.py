"""Draws the plots with matplotlib, without a display; the same values give the same bytes."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptl_plugins.report.formats import parameter_unit
from ptl_plugins.report.metrics import Measured, Metric
from ptl_plugins.report.plots import Bars, Curve, Curves, Panel, Point

DPI = 120
PANEL_WIDTH, HEIGHT = 5.5, 4.0
"""Inches."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
"""Told apart by the colour-blind as well (Okabe and Ito)."""
MARKERS = "osD^"
"""The next one when the colours are used up."""
MAX_PANELS = 3
"""Side by side; more of them go below."""
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.25
BAR_WIDTH = 1.5
"""Inches for the label below a bar."""
SHIFT = 0.012
"""Of an axis's length, by which pruned points stand before recovered ones."""


def draw(plot: Curves | Bars) -> bytes:
    """Return the plot as a PNG."""
    with house_style():
        return to_png(_curves(plot) if isinstance(plot, Curves) else _bars(plot))


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Take matplotlib's own defaults, whatever the user's file says, and leave names as text."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        matplotlib.rcParams["font.size"] = 10
        yield


def to_png(figure: Figure) -> bytes:
    """Return the picture's bytes; the same figure gives the same."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _curves(plot: Curves) -> Figure:
    figure = Figure(figsize=(2 * PANEL_WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    by_round, by_size = figure.subplots(1, 2, sharey=True)
    points = [point for curve in plot.curves for point in curve.points]
    unit, letter = parameter_unit(max((p.num_parameters for p in points), default=1))
    _fill(by_round, plot, _axis(points, lambda point: point.round, -1))
    _fill(by_size, plot, _axis(points, lambda point: point.num_parameters / unit, 1))
    by_round.set(xlabel="round (0: the original)", ylabel=_axis_label(plot.metric))
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_size.set_xlabel(f"parameters ({letter})" if letter else "parameters")
    by_size.invert_xaxis()  # left to right is the way of a run on both sides
    _legend(figure, by_round)
    return figure


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a round's points stand on the horizontal axis."""

    place: Callable[[Point], float]
    shift: float
    """Of a pruned point, towards the round before."""


def _axis(points: Sequence[Point], place: Callable[[Point], float], sign: int) -> Axis:
    places = [place(point) for point in points] or [0.0]
    return Axis(place, sign * SHIFT * (max(places) - min(places)))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    rows = -(-len(names) // LEGEND_COLUMNS)
    figure.set_figheight(HEIGHT + LEGEND_ROW * rows)
    figure.legend(handles, names, loc="outside lower center", ncols=LEGEND_COLUMNS)


def _fill(axes: Axes, plot: Curves, axis: Axis) -> None:
    for index, curve in enumerate(plot.curves):
        marker = MARKERS[index // len(COLOURS) % len(MARKERS)]
        _curve(axes, curve, axis, plot.metric, COLOURS[index % len(COLOURS)], marker)
    axes.grid(alpha=0.3)


def _curve(axes: Axes, curve: Curve, axis: Axis, metric: Metric, colour: str, marker: str) -> None:
    name = _name(curve.run)
    recovered = [(axis.place(p), found) for p in curve.points if (found := _drawn(p.recovered))]
    pruned = [
        (axis.place(p) + axis.shift, found) for p in curve.points if (found := _drawn(p.pruned))
    ]
    style = {"color": colour, "marker": marker}
    _points(axes, recovered, metric, label=f"{name}: recovered", ls="-", **style)
    if pruned:
        _points(axes, pruned, metric, label=f"{name}: pruned", ls="", mfc="white", **style)
    for point in curve.points:
        _recovery(axes, point, axis, metric, colour)
    if curve.points and curve.points[0].round == 0 and (start := _drawn(curve.points[0].recovered)):
        axes.axhline(_scaled(metric, start.value), color=colour, ls="--", lw=1, alpha=0.6)


def _points(
    axes: Axes, points: Sequence[tuple[float, Measured]], metric: Metric, **style: str
) -> None:
    xs = [x for x, _ in points]
    ys = [_scaled(metric, found.value) for _, found in points]
    bars = _error_bars(metric, [found for _, found in points])
    axes.errorbar(xs, ys, yerr=bars, elinewidth=0.8, capsize=2, **style)  # type: ignore[arg-type]


def _recovery(axes: Axes, point: Point, axis: Axis, metric: Metric, colour: str) -> None:
    """Join a round's two points."""
    pruned, recovered = _drawn(point.pruned), _drawn(point.recovered)
    if pruned and recovered:
        places = [axis.place(point) + axis.shift, axis.place(point)]
        ends = [_scaled(metric, found.value) for found in (pruned, recovered)]
        axes.plot(places, ends, color=colour, ls=":", lw=1)


def _bars(plot: Bars) -> Figure:
    columns = min(MAX_PANELS, len(plot.panels))
    rows = -(-len(plot.panels) // columns)
    width = max(PANEL_WIDTH, *(BAR_WIDTH * len(panel.bars) for panel in plot.panels))
    figure = Figure(figsize=(width * columns, HEIGHT * rows), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for index, axes in enumerate(grid):
        if index < len(plot.panels):
            _panel(axes, plot.panels[index], plot.axis)
        else:
            axes.set_axis_off()
    return figure


def _panel(axes: Axes, panel: Panel, label: str) -> None:
    for index, bar in enumerate(panel.bars):
        if last := _drawn(bar.last):
            height, errors = _scaled(panel.metric, last.value), _error_bars(panel.metric, [last])
            colour = COLOURS[index % len(COLOURS)]
            axes.bar(index, height, yerr=errors, color=colour, width=0.6, capsize=4)
        if original := _drawn(bar.original):
            level = _scaled(panel.metric, original.value)
            axes.plot([index - 0.4, index + 0.4], [level, level], color="black", ls="--", lw=1)
    axes.set_xticks(range(len(panel.bars)), [_name(bar.label) for bar in panel.bars], fontsize=8)
    axes.set(xlabel=label, ylabel=_axis_label(panel.metric))
    axes.grid(axis="y", alpha=0.3)


def _drawn(found: Measured | None) -> Measured | None:
    """Return what was measured where it can be drawn: not a loss of infinity."""
    return found if found is not None and math.isfinite(found.value) else None


def _error_bars(metric: Metric, found: Sequence[Measured]) -> list[list[float]] | None:
    """Return the distances to both ends of the intervals, 0 where there is none."""
    if not any(one.interval for one in found):
        return None
    ends = [(one.value, one.interval or (one.value, one.value)) for one in found]
    below = [_scaled(metric, max(0.0, value - low)) for value, (low, _) in ends]
    above = [_scaled(metric, max(0.0, high - value)) for value, (_, high) in ends]
    return [below, above]


def _scaled(metric: Metric, value: float) -> float:
    return 100 * value if metric.is_share else value


def _axis_label(metric: Metric) -> str:
    return f"{metric.name} (%)" if metric.is_share else metric.name


def _name(text: str) -> str:
    """Return a label that matplotlib shows: one that begins with an underscore it hides."""
    return f" {text}" if text.startswith("_") else text
