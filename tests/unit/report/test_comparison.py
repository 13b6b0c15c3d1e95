"""Several runs side by side: the forms of Table 1, Fig. 4 and Table 3 of the paper."""

from __future__ import annotations

import dataclasses

import pytest

from ptl_plugins.report.comparison import comparison_section
from ptl_plugins.report.contents import build_document
from ptl_plugins.report.document import Table
from ptl_plugins.report.metrics import metrics_of
from ptl_plugins.report.orders import order_of, order_section
from ptl_plugins.report.step_sizes import step_share, step_size_section, steps_of


def table(section):
    """Return a section's first table as rows by heading, line breaks as spaces."""
    headings = [column.heading.replace("\n", " ") for column in section.blocks[0].columns]
    return [dict(zip(headings, row, strict=True)) for row in section.blocks[0].rows]


def headings(document):
    return [section.heading for section in document.sections]


@pytest.fixture
def two_steps(write_run, cuts, steps_right):
    """The same target in four steps and in two."""
    large = dataclasses.replace(cuts.neurons, amount=16.0)
    return [
        write_run("large", (large,) * 2, metrics=lambda index: steps_right(20 - 4 * index)),
        write_run("small", (cuts.neurons,) * 4, metrics=lambda index: steps_right(20 - index)),
    ]


def test_the_table_of_three_runs(write_three, read):
    runs = read(*write_three())
    rows = table(comparison_section(runs, metrics_of(runs)))
    assert list(rows[0]) == [
        "run", "parameters", "kept", "FLOPs",
        "cot_loss original", "cot_loss last", "cot_loss change",
        "step_accuracy original", "step_accuracy last", "step_accuracy change",
        "recovery wall", "recovery device",
    ]  # fmt: skip
    assert list(rows[1].values()) == [
        "layers_first", "35,232", "63.5%", "0.572", "1.525", "1.625", "+0.100",
        "47.5% (32.9-62.5)", "37.5% (24.2-53.0)", "-10.0 pp", "32 s", "128 s",
    ]  # fmt: skip
    assert [row["run"] for row in rows] == ["neurons_first", "layers_first", "in_turns"]


def test_an_unfinished_run_is_marked_and_compared_as_far_as_it_is(write_run, read, steps_right):
    one = write_run("one", metrics=lambda index: steps_right(20))
    two = write_run("two", done=1, metrics=lambda index: steps_right(20 + index))
    runs = read(one, two)
    rows = table(comparison_section(runs, metrics_of(runs)))
    assert rows[1]["run"] == "two (1 of 3 rounds)"
    assert rows[1]["step_accuracy change"] == "+2.5 pp"
    assert build_document(runs).status[1].startswith("two: UNFINISHED, 1 of 3 rounds done")


def test_a_run_that_has_not_begun_is_all_dashes(write_run, read, steps_right):
    one = write_run("one", metrics=lambda index: steps_right(20))
    runs = read(one, write_run("two", done=0))
    values = list(table(comparison_section(runs, metrics_of(runs)))[1].values())
    assert values == ["two (0 of 3 rounds)", *["-"] * 11]


def test_what_is_not_comparable_is_told(write_run, read, model):
    one = write_run("one", model="/moved")
    two = write_run("two", model="/moved", tasks=("another",))
    notes = comparison_section(read(one, two), ()).notes
    assert "one, two: FLOPs are missing: model '/moved': no such folder." in notes
    assert any("measure different tasks" in note for note in notes)
    assert not any("different shapes" in note for note in notes)


def test_originals_of_different_shapes_are_told(write_run, read):
    one, two = read(write_run("one"), write_run("two"))
    first = dataclasses.replace(two.original, width=50)
    other = dataclasses.replace(two, records=(first, *two.rounds))
    notes = comparison_section([one, other], ()).notes
    assert "The runs start from models of different shapes." in notes


def test_step_sizes_stand_in_their_order_with_what_was_really_cut(two_steps, read):
    runs = read(*two_steps)
    section = step_size_section(runs, metrics_of(runs))
    rows = table(section)
    assert [list(row.values())[:5] for row in rows] == [
        ["small", "8 neurons", "4", "6.9%", "72.3%"],
        ["large", "16 neurons", "2", "13.8%", "72.3%"],
    ]
    assert rows[1]["step_accuracy"] == "30.0% (18.1-45.4)"
    panels = section.blocks[1].plot.panels
    assert [panel.metric.name for panel in panels] == ["cot_loss", "step_accuracy"]
    assert [bar.last.value for bar in panels[1].bars] == [0.4, 0.3]
    assert panels[1].bars[0].label == "small\n6.9%; 40,096"


def test_the_control_stands_last_among_the_step_sizes_without_a_step(two_steps, write_run, read):
    runs = read(write_run("base", (None,) * 4), *two_steps)
    section = step_size_section(runs, metrics_of(runs))
    rows = table(section)
    assert [row["run"] for row in rows] == ["small", "large", "base (nothing cut)"]
    assert list(rows[2].values())[1:5] == ["-", "0", "-", "100.0%"]
    assert step_share(runs[0]) is None
    assert [bar.label.split("\n")[0] for bar in section.blocks[1].plot.panels[0].bars] == [
        "small",
        "large",
    ]


def test_the_control_is_a_column_beside_the_orders(write_three, write_run, read, steps_right):
    base = write_run("base", (None,) * 4, metrics=lambda index: steps_right(20 + index))
    runs = read(base, *write_three())
    rows = table(order_section(runs, metrics_of(runs)))
    assert list(rows[0])[-1] == "base (nothing cut)"
    assert rows[1]["base (nothing cut)"] == "60.0% (44.6-73.7)"


def test_a_run_that_cuts_nothing_is_called_the_control(write_run, read, cuts):
    runs = read(write_run("cut"), write_run("base", (None,) * 3))
    section = comparison_section(runs, ())
    assert [row["run"] for row in table(section)] == ["cut", "base (nothing cut)"]
    (note,) = [note for note in section.notes if "ontrol" in note]
    assert note.startswith("Control: base. It cuts nothing")


def test_an_unfinished_control_is_one_all_the_same(write_run, read):
    runs = read(write_run("cut"), write_run("base", (None,) * 3, done=1))
    rows = table(comparison_section(runs, ()))
    assert rows[1]["run"] == "base (1 of 3 rounds) (nothing cut)"


def test_a_last_round_without_a_cut_makes_no_control(write_run, read, cuts):
    runs = read(write_run("cut"), write_run("rest", (cuts.neurons, None)))
    assert table(comparison_section(runs, ()))[1]["run"] == "rest"


def test_a_comparison_without_a_control_says_so(write_three, read):
    runs = read(*write_three())
    (note,) = [note for note in comparison_section(runs, ()).notes if "ontrol" in note]
    assert note.startswith(
        "No control among them: neurons_first, layers_first, in_turns cut something."
    )
    assert "{unit: none, rounds: N}" in note


def test_without_metrics_there_are_no_bars(two_steps, read):
    (block,) = step_size_section(read(*two_steps), ()).blocks
    assert isinstance(block, Table)


def test_runs_of_the_same_step_are_not_compared_by_it(write_run, read, cuts):
    one, two = write_run("one", (cuts.neurons,) * 2), write_run("two", (cuts.neurons,) * 3)
    control = write_run("control", (None,))
    assert step_size_section(read(one, two, control), ()) is None


@pytest.mark.parametrize(("selector", "differ"), [("parameters", True), ("count", False)])
def test_the_step_to_a_target_follows_from_the_number_of_rounds(
    write_run, read, cuts, selector, differ
):
    def to_target(rounds):
        return tuple(
            dataclasses.replace(cuts.neurons, selector=selector, amount=2000, rounds_left=left)
            for left in range(rounds, 0, -1)
        )

    one, two = read(*(write_run(f"{n}", to_target(n), done=0) for n in (2, 4)))
    assert (steps_of(one) != steps_of(two)) is differ


def test_orders_are_compared_metric_by_metric(write_three, read):
    runs = read(*write_three())
    rows = table(order_section(runs, metrics_of(runs)))
    assert list(rows[0]) == [
        "metric",
        "original",
        "neuron_then_layer (neurons_first)",
        "layer_then_neuron (layers_first)",
        "alternating (in_turns)",
    ]
    assert rows[1]["original"] == "-"  # the originals of these three do not agree
    assert rows[1]["alternating (in_turns)"] == "35.0% (22.1-50.5)"
    same = [runs[0], dataclasses.replace(runs[1], records=runs[0].records)]
    assert table(order_section(same, metrics_of(same)))[1]["original"] == "50.0% (35.2-64.8)"


@pytest.mark.parametrize(
    ("rounds", "order"),
    [
        ("nnl", "neuron_then_layer"),
        ("nl", "neuron_then_layer"),
        ("n-l-", "neuron_then_layer"),
        ("lln", "layer_then_neuron"),
        ("nlnl", "alternating"),
        ("lnln", "alternating"),
        ("nlnnn", "alternating"),
        ("bb", "together"),
        ("nnln", "mixed"),
        ("bnl", "mixed"),
        ("nn", None),
        ("l", None),
        ("--", None),
    ],
)
def test_the_order_of_a_schedule(write_run, read, cuts, rounds, order):
    of = {"n": cuts.neurons, "l": cuts.layer, "b": (cuts.layer, cuts.neurons), "-": None}
    (run,) = read(write_run(cuts=[of[letter] for letter in rounds], done=0))
    assert order_of(run) == order


def test_one_order_is_not_compared(write_run, read, cuts, steps_right):
    def metrics(index):
        return steps_right(20)

    both = write_run("both", (cuts.neurons, cuts.layer), metrics=metrics)
    again = write_run("again", (cuts.neurons, cuts.layer), metrics=metrics)
    neurons = write_run("neurons", (cuts.neurons,), metrics=metrics)
    runs = read(both, again, neurons)
    assert order_section(runs, metrics_of(runs)) is None


def test_sections_of_one_run_and_of_several(write_three, write_run, read, steps_right):
    runs = read(*write_three())
    assert headings(build_document(runs[:1])) == [
        "Rounds", "Seconds", "Recovery time", "Curves", "Facts", "Recipe",
    ]  # fmt: skip
    found = headings(build_document(runs))
    assert found[:5] == ["Runs side by side", "Order", "Rounds of neurons_first",
                         "Seconds of neurons_first", "Recovery time of neurons_first"]  # fmt: skip
    assert found[-5:] == ["Curves", "Facts", "Recipe of neurons_first",
                          "Recipe of layers_first", "Recipe of in_turns"]  # fmt: skip
