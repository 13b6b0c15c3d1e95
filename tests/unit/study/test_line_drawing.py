"""Pictures of lines: the scale of their axis, and bytes that do not change."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from ptl_plugins.report.metrics import Metric
from ptl_plugins.study.line_drawing import _scale, draw_lines
from ptl_plugins.study.line_plot import Line, LinePlot, LinePoint
from ptl_plugins.study.spread import spread


def plot_of(*places, axis="tokens"):
    points = (LinePoint(run="a", x=x, found=spread([1.0, 2.0])) for x in places)
    line = Line(name="_a$b", points=tuple(points))
    return LinePlot(metric=Metric(name="loss", is_share=False), axis=axis, lines=(line,))


@pytest.mark.parametrize(
    ("places", "axis", "scale"),
    [((1, 9), "tokens", "linear"), ((1, 10), "tokens", "log"), ((1, 10), "rounds", "linear"),
     ((0, 10), "tokens", "linear"), ((), "tokens", "linear")],
)  # fmt: skip
def test_a_wide_axis_is_logarithmic(places, axis, scale):
    axes = Figure().subplots()
    _scale(axes, plot_of(*places, axis=axis))
    assert axes.get_xscale() == scale


def test_the_same_values_give_the_same_bytes_and_no_values_a_picture():
    assert draw_lines(plot_of(1, 2)) == draw_lines(plot_of(1, 2))
    assert draw_lines(plot_of()).startswith(b"\x89PNG")
