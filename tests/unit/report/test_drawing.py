"""Plots are pictures, the same each time, whatever the names and numbers are."""

from __future__ import annotations

import struct
import zlib

import matplotlib
import pytest

from ptl_plugins.report.contents import build_document
from ptl_plugins.report.drawing import draw
from ptl_plugins.report.metrics import Measured, Metric
from ptl_plugins.report.plots import Bar, Bars, Curve, Curves, Panel, Point

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(png):
    """Return (name, content) of the chunks of a PNG; their checksums are checked."""
    assert png.startswith(SIGNATURE)
    rest, found = png[len(SIGNATURE) :], []
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        name, content = rest[4:8], rest[8 : 8 + length]
        assert struct.unpack(">I", rest[8 + length : 12 + length]) == (zlib.crc32(name + content),)
        found.append((name, content))
        rest = rest[12 + length :]
    return found


def size(png):
    name, header = chunks(png)[0]
    assert name == b"IHDR"
    return struct.unpack(">II", header[:8])


def curves(*names, values=(0.5, 0.4), interval=(0.3, 0.6), is_share=True):
    points = tuple(
        Point(
            round=index,
            num_parameters=1000 - 100 * index,
            pruned=Measured(value=value / 2) if index else None,
            recovered=Measured(value=value, interval=interval),
        )
        for index, value in enumerate(values)
    )
    return Curves(
        metric=Metric(name="accuracy", is_share=is_share),
        curves=tuple(Curve(run=name, points=points) for name in names),
    )


def bars(*values, num_panels=1):
    found = tuple(
        Bar(
            label=f"run {index}",
            original=Measured(value=0.5),
            last=None if value is None else Measured(value=value),
        )
        for index, value in enumerate(values)
    )
    metric = Metric(name="accuracy", is_share=True)
    return Bars(axis="step", panels=(Panel(metric=metric, bars=found),) * num_panels)


def test_curves_and_bars_are_pictures_that_end_where_they_should():
    for plot in (curves("run"), bars(0.3, 0.4)):
        found = chunks(draw(plot))
        assert (found[0][0], found[-1][0]) == (b"IHDR", b"IEND")


def test_the_same_values_are_the_same_bytes_whatever_the_user_has_set():
    first = draw(curves("run", "other"))
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "savefig.dpi": 10}):
        assert draw(curves("run", "other")) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert draw(curves("run", "other", values=(0.5, 0.41))) != first


def test_no_date_and_no_version_stands_in_a_picture():
    assert not [content for name, content in chunks(draw(curves("run"))) if name == b"tEXt"]


def test_no_display_is_needed_and_no_backend_is_chosen():
    before = matplotlib.rcParams["backend"]
    draw(curves("run"))
    assert matplotlib.rcParams["backend"] == before


@pytest.mark.parametrize("name", ["_hidden", "a$x_1$b", "\\alpha", "$", "\u6f22\u5b57", "%s {}"])
def test_any_name_of_a_folder_can_be_drawn(name):
    width, height = size(draw(curves(name)))
    assert width > height > 100


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0, 1e30])
def test_any_number_can_be_drawn(value):
    assert chunks(draw(curves("run", values=(0.5, value), interval=None, is_share=False)))
    assert chunks(draw(bars(value, 0.5)))


def test_a_run_without_points_and_a_bar_without_value_are_left_out():
    empty = Curves(metric=Metric(name="m", is_share=False), curves=(Curve(run="run", points=()),))
    assert chunks(draw(empty))
    assert chunks(draw(bars(None, 0.5)))


def test_panels_go_below_each_other_and_many_runs_make_room():
    one, three, four = (size(draw(bars(0.5, num_panels=number))) for number in (1, 3, 4))
    assert (three[0], three[1]) == (3 * one[0], one[1])
    assert (four[0], four[1]) == (three[0], 2 * one[1])
    assert size(draw(bars(*[0.5] * 9)))[0] > one[0]
    assert size(draw(curves(*"abcdefghi")))[1] > size(draw(curves("a")))[1]


def test_points_are_those_of_the_records(write_run, read, steps_right):
    run = write_run(
        done=2,
        metrics=lambda index: steps_right(20 + index) if index != 1 else None,
        pruned=lambda index: steps_right(10),
    )
    runs = read(run)
    plots = {picture.file: picture.plot for picture in build_document(runs).pictures()}
    assert list(plots) == ["curve_cot_loss.png", "curve_step_accuracy.png"]
    (curve,) = plots["curve_step_accuracy.png"].curves
    assert curve.run == "run (2 of 3 rounds)"
    assert [point.num_parameters for point in curve.points] == [55456, 51616, 47776]
    assert [p.pruned and p.pruned.value for p in curve.points] == [None, 0.25, 0.25]
    assert [p.recovered and p.recovered.value for p in curve.points] == [0.5, None, 0.55]


def test_metrics_of_like_names_have_files_of_their_own(write_run, read):
    run = write_run(metrics=lambda index: {"a b": 1.0, "a/b": 2.0, "A_B": 3.0})
    files = [picture.file for picture in build_document(read(run)).pictures()]
    assert files == ["curve_a_b.png", "curve_a_b-2.png", "curve_a_b-3.png"]
