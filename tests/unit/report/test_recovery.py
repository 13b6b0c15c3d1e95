"""Wall and device time of the recoveries: every stage, sums, and what is not on record."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from ptl_plugins.durable import write_json
from ptl_plugins.report.comparison import comparison_section
from ptl_plugins.report.contents import build_document
from ptl_plugins.report.markdown import to_markdown
from ptl_plugins.report.page import to_page
from ptl_plugins.report.recovery import (
    NOTE,
    device_seconds,
    recovery_seconds,
    recovery_section,
    stage_lines,
)
from ptl_plugins.report.terminal import print_report
from ptl_plugins.stage_types import StageSpec, StageTime

HOUR = 3600.0
CPT = StageTime(backend="llamafactory", wall_seconds=1.5 * HOUR, devices=4)
GRPO = StageTime(backend="verl", wall_seconds=10 * HOUR, devices=16)
TWO = (StageSpec(backend="llamafactory", settings={}), StageSpec(backend="verl", settings={}))
FIRST_ONLY = (StageSpec(backend="fake", settings={}, rounds=(1, 1)),)


def rows(run):
    return [" | ".join(row) for row in recovery_section(run, "R", shown=True).blocks[0].rows]


def notes(run):
    return recovery_section(run, "R", shown=True).notes


@pytest.fixture
def change(read):
    """Change the record of one round of a run folder."""

    def change(folder, index, **keys):
        path = folder / f"round_0{index}" / "record.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {**record, **keys})

    return change


def test_every_stage_of_every_round_stands_there_in_hours(write_run, read, cuts):
    run = read(write_run(cuts=(cuts.neurons, cuts.layer), stages=(CPT, GRPO), planned=TWO))[0]
    assert rows(run) == [
        "1 | 0 | llamafactory | 4 | 1.5 h | 6.0 h",
        "1 | 1 | verl | 16 | 10.0 h | 160.0 h",
        "2 | 0 | llamafactory | 4 | 1.5 h | 6.0 h",
        "2 | 1 | verl | 16 | 10.0 h | 160.0 h",
        "all |  |  |  | 23.0 h | 332.0 h",
    ]
    assert notes(run) == (NOTE,)


@pytest.mark.parametrize(
    ("seconds", "wall", "device"), [(10.0, "30 s", "20.0 min"), (300.0, "15.0 min", "10.0 h")]
)
def test_small_runs_are_told_in_seconds_or_minutes(write_run, read, seconds, wall, device):
    took = StageTime(backend="fake", wall_seconds=seconds, devices=40)
    runs = read(write_run("one", stages=(took,)), write_run("two"))
    assert rows(runs[0])[-1] == f"all |  |  |  | {wall} | {device}"
    assert comparison_section(runs, ()).blocks[0].rows[0][-2:] == (wall, device)


def test_the_totals_are_sums_of_the_records(write_run, read):
    folder = write_run(stages=(CPT, dataclasses.replace(GRPO, wall_seconds=0.125)), planned=TWO)
    paths = sorted(folder.glob("round_*/record.json"))
    stages = [stage for path in paths for stage in json.loads(path.read_bytes())["stages"]]
    (run,) = read(folder)
    assert len(stages) == len(stage_lines(run)) == 6
    assert recovery_seconds(run) == sum(stage["wall_seconds"] for stage in stages)
    assert device_seconds(run) == sum(stage["wall_seconds"] * stage["devices"] for stage in stages)


def test_a_round_that_only_cuts_took_no_time_and_is_told(write_run, read, change):
    folder = write_run(planned=FIRST_ONLY)
    for index in (2, 3):
        change(folder, index, stages=[], seconds={"profile": 1.0})
    (run,) = read(folder)
    assert rows(run) == [
        "1 | 0 | fake | 4 | 8 s | 32 s",
        "2 | none | - | - | 0 s | 0 s",
        "3 | none | - | - | 0 s | 0 s",
        "all |  |  |  | 8 s | 32 s",
    ]
    assert notes(run) == (NOTE, "rounds 2-3: no recovery stage.")


def test_a_run_without_stages_or_without_a_round_has_no_table(write_run, read):
    bare = read(write_run("bare", planned=(), stages=(), seconds={"profile": 1.0}))[0]
    assert recovery_section(bare, "R", shown=True) is None
    assert (recovery_seconds(bare), device_seconds(bare)) == (0.0, 0.0)
    begun = read(write_run("begun", done=0))[0]
    assert recovery_section(begun, "R", shown=True) is None
    assert (recovery_seconds(begun), device_seconds(begun)) == (None, None)


def test_records_of_earlier_versions_have_the_steps_wall_time_and_no_devices(write_run, read):
    folder = write_run(stages=(), planned=TWO)
    for path in folder.glob("round_*/record.json"):
        record = json.loads(path.read_bytes())
        del record["stages"]
        write_json(path, record)
    (run,) = read(folder)
    assert rows(run) == [
        *(f"{index} | all | llamafactory, verl | - | 9 s | -" for index in (1, 2, 3)),
        "all |  |  |  | 27 s | -",
    ]
    assert notes(run) == (NOTE, "rounds 1-3: device time is not on record.")
    assert (recovery_seconds(run), device_seconds(run)) == (27.0, None)


def test_what_a_resumed_round_of_an_earlier_version_lacks_is_told(write_run, read, change):
    folder = write_run()
    change(folder, 2, stages=[], seconds={"prune": 1.0, "recover": 2.0})
    assert notes(read(folder)[0])[-1] == (
        "round 2: resumed; a stage that was finished before that is not in its wall time."
    )


def test_a_resumed_round_has_the_times_of_both_tries(write_run, read, change):
    """The step `recover` of the last try did nothing; the stages are on record all the same."""
    folder = write_run()
    change(folder, 2, seconds={"prune": 1.0, "recover": 0.0})
    (run,) = read(folder)
    assert rows(run)[1] == "2 | 0 | fake | 4 | 8 s | 32 s"
    assert recovery_seconds(run) == 24.0
    assert notes(run) == (NOTE,)


@pytest.mark.parametrize("seconds", [{"profile": 1.0, "recover": 5.0}, {"profile": 1.0}])
def test_a_time_that_is_not_on_record_leaves_its_total_open(write_run, read, change, seconds):
    folder = write_run()
    stage = {"backend": "fake", "wall_seconds": None, "devices": None}
    for index, keys in ((1, {"stages": [stage], "seconds": seconds}), (3, {"stages": [stage]})):
        change(folder, index, **keys)
    (run,) = read(folder)
    assert rows(run)[0] == "1 | 0 | fake | - | - | -"
    assert rows(run)[-1] == "all |  |  |  | - | -"
    assert notes(run)[1:] == (
        "rounds 1, 3: wall time is not on record.",
        "rounds 1, 3: device time is not on record.",
    )
    assert (recovery_seconds(run), device_seconds(run)) == (None, None)


def test_a_planned_recovery_that_no_record_tells_of_is_not_taken_for_none(write_run, read):
    run = read(write_run(stages=(), seconds={"profile": 1.0}))[0]
    assert rows(run)[0] == "1 | all | fake | - | - | -"
    assert recovery_seconds(run) is None


def test_an_unfinished_run_is_told(write_run, read):
    run = read(write_run(done=1))[0]
    assert notes(run)[1] == "The run is not finished: 1 of 3 rounds are in it."
    assert rows(run)[-1].endswith("8 s | 32 s")


def test_the_table_is_in_markdown_page_and_terminal(write_run, read):
    document = build_document(read(write_run(stages=(GRPO,))))
    assert "| 1 | 0 | verl | 16 | 10.0 h | 160.0 h |" in to_markdown(document)
    page = to_page(document, {})
    assert "Recovery time</h2>" in page
    assert "480.0 h</td>" in page
    stream = io.StringIO()
    print_report(document, Console(file=stream, width=200))
    shown = stream.getvalue().partition("Recovery time\n")[2]
    assert next(line.split() for line in shown.splitlines() if "verl" in line)[-4:] == [
        "10.0", "h", "160.0", "h",
    ]  # fmt: skip


def test_device_time_stands_beside_wall_time_where_runs_are_compared(write_run, read):
    one, two = write_run("one", stages=(GRPO,)), write_run("two", stages=(CPT,))
    table = comparison_section(read(one, two), ()).blocks[0]
    assert [column.heading for column in table.columns[-2:]] == [
        "recovery\nwall", "recovery\ndevice",
    ]  # fmt: skip
    assert [row[-2:] for row in table.rows] == [("30.0 h", "480.0 h"), ("4.5 h", "18.0 h")]
