"""One fraction for the whole, tasks of an earlier start left out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ptl_plugins.quickstart.progress import Progress, Task


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def progress(output):
    tasks = [Task(name="short", seconds=10), Task(name="long", seconds=30)]
    return Progress(tasks, Console(file=output, width=200))


def test_tasks_count_by_their_seconds(progress):
    progress.show("short", 1.0, "")
    assert progress.fraction() == pytest.approx(0.25)
    progress.show("long", 0.5, "")
    assert progress.fraction() == pytest.approx(0.625)


def test_a_fraction_never_goes_back(progress):
    progress.show("long", 0.5, "")
    progress.show("long", 0.2, "")
    assert progress.fraction() == pytest.approx(0.375)


def test_a_task_of_an_earlier_start_is_left_out(progress):
    progress.skip("long")
    progress.show("short", 0.5, "")
    assert progress.fraction() == pytest.approx(0.5)


def test_the_line_names_what_is_done_and_the_time_left(progress, output):
    progress.show("short", 0.0, "the first step")
    assert output.getvalue() == "[  0%] 0:00 gone, 0:40 left: the first step\n"
