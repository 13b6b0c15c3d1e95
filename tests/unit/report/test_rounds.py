"""The tables of one run: what is there, and a dash for what is not."""

from __future__ import annotations

import dataclasses

import pytest

from ptl_plugins.durable import write_json
from ptl_plugins.report.contents import build_document
from ptl_plugins.report.formats import duration, number, parameters
from ptl_plugins.report.markdown import to_markdown
from ptl_plugins.report.metrics import Measured, Metric, metrics_of, show, show_change
from ptl_plugins.report.rounds import INTERVAL_NOTE, rounds_section
from ptl_plugins.report.times import RESUMED_NOTE, seconds_section, share_of_run

ACCURACY = Metric(name="step_accuracy", is_share=True)
LOSS = Metric(name="cot_loss", is_share=False)


def table(section):
    """Return a section's first table as rows by heading, line breaks as spaces."""
    headings = [column.heading.replace("\n", " ") for column in section.blocks[0].columns]
    return [dict(zip(headings, row, strict=True)) for row in section.blocks[0].rows]


def rounds(run):
    return rounds_section(run, metrics_of([run]), "Rounds", shown=True)


def test_the_table_of_a_whole_run_as_markdown(write_run, read, steps_right):
    run = write_run(
        metrics=lambda index: steps_right(20 - index), pruned=lambda index: steps_right(10)
    )
    text = to_markdown(build_document(read(run)))
    lines = text.partition("## Rounds\n\n")[2].splitlines()
    assert lines[:6] == [
        "| round | cut | layers | width | parameters | kept | FLOPs | cot_loss pruned "
        "| cot_loss recovered | step_accuracy pruned | step_accuracy recovered |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 0 | original | 5 | 48 | 55,456 | 100.0% | 1.000 | - | 1.500 | - | 50.0% (35.2-64.8) |",
        "| 1 | 8 neurons by output_change | 5 | 40 | 51,616 | 93.1% | 0.919 | 1.750 | 1.525 "
        "| 25.0% (14.2-40.2) | 47.5% (32.9-62.5) |",
        "| 2 | 8 neurons by output_change | 5 | 32 | 47,776 | 86.2% | 0.838 | 1.750 | 1.550 "
        "| 25.0% (14.2-40.2) | 45.0% (30.7-60.2) |",
        "| 3 | 1 layer by l2 | 4 | 32 | 41,504 | 74.8% | 0.705 | 1.750 | 1.575 "
        "| 25.0% (14.2-40.2) | 42.5% (28.5-57.8) |",
    ]


def test_without_evaluation_there_is_no_column_of_a_metric_and_a_line_says_so(write_run, read):
    run = write_run()
    (row, *_) = table(rounds(read(run)[0]))
    assert list(row) == ["round", "cut", "layers", "width", "parameters", "kept", "FLOPs"]
    document = build_document(read(run))
    assert "Nothing was measured: no record holds a metric." in document.status
    assert list(document.pictures()) == []


def test_an_unfinished_run_says_so_and_shows_what_is_there(write_run, read):
    runs = read(write_run(done=1))
    assert build_document(runs).status[0] == (
        "UNFINISHED, 1 of 3 rounds done; the numbers are of these rounds."
    )
    assert [row["round"] for row in table(rounds(runs[0]))] == ["0", "1"]


def test_a_run_without_its_original_has_no_ratios(write_run, read):
    folder = write_run()
    (folder / "round_00" / "record.json").unlink()
    runs = read(folder)
    assert [(row["kept"], row["FLOPs"]) for row in table(rounds(runs[0]))] == [("-", "-")] * 3
    assert table(rounds(runs[0]))[0]["cut"] == "neurons by output_change (count 8)"
    assert "the original is not recorded." in build_document(runs).status


def test_a_round_that_was_not_measured_has_dashes(write_run, read, steps_right):
    run = write_run(metrics=lambda index: steps_right(20) if index != 1 else None)
    assert [row["cot_loss"] for row in table(rounds(read(run)[0]))] == [
        "1.500", "-", "1.500", "1.500",
    ]  # fmt: skip


def test_a_run_that_measured_nothing_before_recovery_has_one_column(write_run, read, steps_right):
    run = write_run(metrics=lambda index: steps_right(20))
    (row, *_) = table(rounds(read(run)[0]))
    assert list(row)[-2:] == ["cot_loss", "step_accuracy"]


def test_counts_are_told_below_the_table_and_are_no_columns(write_run, read, steps_right):
    run = write_run(metrics=lambda index: {**steps_right(20), "num_tokens": 100.0 + index})
    section = rounds(read(run)[0])
    assert "Measured on: num_problems 10, num_steps 40, num_tokens 100 to 103." in section.notes
    assert INTERVAL_NOTE in section.notes
    assert not [heading for heading in table(section)[0] if "num_" in heading]


def test_without_an_interval_none_is_explained(write_run, read):
    section = rounds(read(write_run(metrics=lambda index: {"cot_loss": 1.0}))[0])
    assert INTERVAL_NOTE not in section.notes


def test_what_was_cut_is_told_by_the_shapes_and_not_by_the_amount(write_run, read, cuts):
    folder = write_run(cuts=((cuts.layer, cuts.neurons), None))
    path = folder / "round_01" / "record.json"
    (run,) = read(folder)
    threshold = dataclasses.replace(cuts.neurons, selector="threshold", amount=0.25)
    record = dataclasses.replace(run.rounds[0], cuts=(cuts.layer, threshold))
    write_json(path, dataclasses.asdict(record))
    assert [row["cut"] for row in table(rounds(read(folder)[0]))] == [
        "original",
        "1 layer by l2 + 8 neurons by output_change (threshold 0.25)",
        "nothing",
    ]


@pytest.mark.parametrize(("gone", "told"), [(8, "8 directions (32 -> 24)"),
                                            (1, "1 direction (32 -> 31)")])  # fmt: skip
def test_slicing_is_told_by_the_hidden_sizes_and_not_by_the_amount(
    write_run, read, cuts, gone, told
):
    folder = write_run(cuts=(cuts.neurons, dataclasses.replace(cuts.hidden, amount=gone), None))
    path = folder / "round_02" / "record.json"
    fraction = dataclasses.replace(cuts.hidden, selector="fraction", amount=0.43)
    record = dataclasses.replace(read(folder)[0].rounds[1], cuts=(fraction,))
    write_json(path, dataclasses.asdict(record))
    assert [row["cut"] for row in table(rounds(read(folder)[0]))] == [
        "original", "8 neurons by output_change", f"{told} by slicegpt", "nothing",
    ]  # fmt: skip
    write_json(path, dataclasses.asdict(dataclasses.replace(record, hidden=None)))
    assert table(rounds(read(folder)[0]))[2]["cut"] == (
        "directions of the hidden size by slicegpt (fraction 0.43)"
    ), "of an older record nothing else is known"


def test_seconds_by_step_and_ptls_share(write_run, read):
    section = seconds_section(read(write_run())[0], "Seconds", shown=True)
    rows = table(section)
    assert list(rows[0]) == [
        "round", "profile", "select", "prune", "recover", "evaluate", "total", "PTL's share",
    ]  # fmt: skip
    assert list(rows[0].values()) == ["0", "-", "-", "-", "-", "1.0", "1.0", "-"]
    assert list(rows[1].values()) == ["1", "2.0", "0.5", "0.5", "9.0", "1.0", "13.0", "25.0%"]
    assert list(rows[4].values()) == ["all", "6.0", "1.5", "1.5", "27.0", "4.0", "40.0", "25.0%"]
    assert RESUMED_NOTE not in section.notes


def test_steps_that_ptl_does_not_know_are_its_own_and_second_evaluations_are_not(write_run, read):
    seconds = {"profile": 1.0, "bookkeeping": 2.0, "recover": 9.0, "evaluate_pruned": 50.0}
    rows = table(seconds_section(read(write_run(seconds=seconds))[0], "Seconds", shown=True))
    assert list(rows[1])[1:5] == ["profile", "bookkeeping", "evaluate_pruned", "recover"]
    assert rows[1]["PTL's share"] == "25.0%"


def test_a_round_that_was_resumed_or_not_recovered_tells_no_share(write_run, read):
    for name, seconds in (("a", {"prune": 1.0, "recover": 9.0}), ("b", {"profile": 1.0})):
        (run,) = read(write_run(name, seconds=seconds))
        section = seconds_section(run, "Seconds", shown=True)
        assert [row["PTL's share"] for row in table(section)] == ["-"] * 5
        assert (RESUMED_NOTE in section.notes) is (name == "a")
        assert share_of_run(run) is None


def test_without_seconds_there_is_no_table_of_them(write_run, read):
    folder = write_run(seconds={}, done=0)
    (run,) = read(folder)
    bare = dataclasses.replace(run, records=(dataclasses.replace(run.original, seconds={}),))
    assert seconds_section(bare, "Seconds", shown=True) is None


@pytest.mark.parametrize(
    ("metric", "found", "text"),
    [
        (ACCURACY, Measured(value=0.46762, interval=(0.41, 0.5263)), "46.8% (41.0-52.6)"),
        (ACCURACY, Measured(value=0.46762), "46.8%"),
        (ACCURACY, None, "-"),
        (LOSS, Measured(value=1.26778), "1.268"),
        (LOSS, Measured(value=0.0000123), "1.23e-05"),
        (LOSS, Measured(value=float("nan")), "nan"),
    ],
)
def test_how_a_value_is_written(metric, found, text):
    assert show(metric, found) == text


def test_how_a_change_is_written():
    one, two = Measured(value=0.5), Measured(value=0.4688)
    assert show_change(ACCURACY, one, two) == "-3.1 pp"
    assert show_change(LOSS, two, one) == "+0.031"
    assert show_change(LOSS, one, one) == "+0.000"
    assert (show_change(LOSS, None, one), show_change(LOSS, one, None)) == ("-", "-")


def test_an_accuracy_that_is_no_share_is_a_plain_number(write_run, read):
    run = write_run(metrics=lambda index: {"accuracy": 52.5, "num_problems": 100.0})
    (metric,) = metrics_of(read(run))
    assert not metric.is_share
    assert table(rounds(read(run)[0]))[0]["accuracy"] == "52.500"


def test_how_sizes_and_times_are_written():
    assert [parameters(n) for n in (None, 1234, 134515008, 8030261248)] == [
        "-", "1,234", "134.5 M", "8.03 B",
    ]  # fmt: skip
    assert [duration(90.0, longest) for longest in (90, 3600, 90000)] == [
        "90 s",
        "1.5 min",
        "0.0 h",
    ]
    assert duration(None, 1.0) == "-"
    assert [number(v) for v in (0.0, -2.5, 1e7)] == ["0.000", "-2.500", "1e+07"]
