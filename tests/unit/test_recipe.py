"""Every wrong key of a `ptl:` section is one line: file, key, value, what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe import RecipeSource, read_section
from ptl_plugins.types import CalibrationSpec, Cut, EvaluationSpec, ProtectSpec

PHASE = {"unit": "neuron", "amount": 2}


@pytest.fixture
def read(registry):
    """Read a section from its keys; the schedule has a default."""

    def section(**keys):
        source = RecipeSource(path=Path("my.yaml"), keys={}, text="", registry=registry)
        return read_section(source, {"schedule": [PHASE], **keys}, prefix="ptl")

    return section


@pytest.fixture
def lines(read):
    """Return the lines that refuse a section, without the file they all start with."""

    def refuse(**keys):
        with pytest.raises(RecipeError) as raised:
            read(**keys)
        found = str(raised.value).split("\n")
        assert all(line.startswith("my.yaml: ptl") for line in found)
        return [line.removeprefix("my.yaml: ptl.") for line in found]

    return refuse


def phase(**keys):
    return {"schedule": [{**PHASE, **keys}]}


def test_the_defaults_are_what_hurt_least(read):
    """By measurement; the paper's are `activation_max` and `refit: none`."""
    section = read(schedule=[PHASE, {"unit": "layer", "amount": 1}, {"unit": "none", "rounds": 2}])
    assert [spec.cuts for spec in section.rounds] == [
        (Cut(unit="neuron", criterion="output_change", selector="count", amount=2.0),),
        (Cut(unit="layer", criterion="l2", selector="count", amount=1.0),),
        (),
        (),
    ]
    assert (section.family, section.seed, section.multiple_of) == (None, None, 1)
    assert (section.refit, section.protect) == ("ridge", None)
    assert (section.tokens, section.learning_rate_schedule) == ("equal", "round")
    assert section.calibration == CalibrationSpec(
        num_sequences=128, max_length=None, batch_tokens=4096
    )
    assert section.evaluation == EvaluationSpec(tasks=(), every=1, before_recovery=False)


def test_every_key_reaches_the_section(read, tmp_path):
    data = tmp_path / "held_out.jsonl"
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n', encoding="utf-8")
    section = read(
        schedule=[
            {"unit": "neuron", "criterion": "activation_mean", "selector": "fraction",
             "amount": 0.1, "rounds": 2},
            {"unit": "layer", "criterion": "last", "amount": 1},
        ],
        tokens="proportional", learning_rate_schedule="run",
        order="layer_then_neuron", family="qwen2", seed=7, multiple_of=64, refit="none",
        protect={"data": "a/corpus", "top": 9, "column": "body", "num_sequences": 5},
        calibration={"num_sequences": 3, "max_length": 9, "batch_tokens": 11},
        evaluate={"tasks": [{"evaluator": "chain_of_thought", "data": str(data)}],
                  "every": 2, "before_recovery": True},
    )  # fmt: skip
    neuron = Cut(unit="neuron", criterion="activation_mean", selector="fraction", amount=0.1)
    layer = Cut(unit="layer", criterion="last", selector="count", amount=1.0)
    first = replace(neuron, rounds_left=2)
    assert [spec.cuts for spec in section.rounds] == [(layer,), (first,), (neuron,)]
    assert (section.family, section.seed, section.multiple_of) == ("qwen2", 7, 64)
    assert section.refit == "none"
    assert (section.tokens, section.learning_rate_schedule) == ("proportional", "run")
    assert section.protect == ProtectSpec(data="a/corpus", top=9, column="body", num_sequences=5)
    assert section.calibration == CalibrationSpec(num_sequences=3, max_length=9, batch_tokens=11)
    (task,) = section.evaluation.tasks
    assert (task.evaluator, task.settings) == ("chain_of_thought", {"data": str(data)})
    assert (section.evaluation.every, section.evaluation.before_recovery) == (2, True)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"shedule": 1}, "shedule: unknown key (did you mean 'schedule'?); allowed: schedule, "),
        (phase(amuont=1), "schedule.0.amuont: unknown key (did you mean 'amount'?); allowed: unit"),
        (
            {"calibration": {"num_sequence": 1}},
            "calibration.num_sequence: unknown key (did you mean 'num_sequences'?)",
        ),
        (
            {"tokens": "all"},
            "tokens: 'all' should be 'equal', 'proportional' or 'final'",
        ),
        (
            {"learning_rate_schedule": "runs"},
            "learning_rate_schedule: 'runs' should be 'round' or 'run'",
        ),
        ({"evaluate": {"evry": 1}}, "evaluate.evry: unknown key (did you mean 'every'?)"),
        (
            phase(criterion="activation_mx"),
            "schedule.0.criterion: unknown criterion 'activation_mx' (did you mean "
            "'activation_max'?); available: ",
        ),
        (
            phase(criterion="l2"),
            "schedule.0.criterion: 'l2' scores layers, but the phase cuts neurons; allowed: "
            "activation_max",
        ),
        (
            phase(unit="layer", criterion="activation_max"),
            "schedule.0.criterion: 'activation_max' scores neurons, but the phase cuts layers; "
            "allowed: block_influence, l2, last",
        ),
        (
            phase(selector="cout"),
            "schedule.0.selector: unknown selector 'cout' (did you mean 'count'?)",
        ),
        (
            phase(criterion="output_chance"),
            "schedule.0.criterion: unknown criterion 'output_chance' (did you mean "
            "'output_change'?); available: ",
        ),
        (
            phase(selector="treshold"),
            "schedule.0.selector: unknown selector 'treshold' (did you mean 'threshold'?); "
            "available: count, flops, fraction, parameters, threshold",
        ),
        (phase(amount=2.5), "schedule.0.amount: 2.5 is not a whole number (selector 'count')"),
        (phase(amount=-1), "schedule.0.amount: -1 "),
        (phase(amount=float("nan")), "schedule.0.amount: nan "),
        (phase(amount=float("inf")), "schedule.0.amount: inf "),
        (phase(amount="nan"), "schedule.0.amount: 'nan' should be greater than or equal to 0"),
        (phase(amount="inf"), "schedule.0.amount: 'inf' should be a finite number"),
        (phase(amount="-1"), "schedule.0.amount: '-1' should be greater than or equal to 0"),
        (phase(amount="-5B"), "schedule.0.amount: '-5B' should be greater than or equal to 0"),
        *(
            (
                phase(amount=amount),
                f"schedule.0.amount: {amount!r} is not a number such as 500, 0.1 or 5B",
            )
            for amount in ("many", "5X", "5b", "", True)
        ),
        (phase(amount=[1]), "schedule.0.amount: [1] "),
        (phase(amount="0.5K", selector="fraction"), "schedule.0.amount: 500.0 is not below 1"),
        (
            phase(selector="parameters", amount=1),
            "schedule.0.amount: 1 is not a ratio of the original between 0 and 1, or a number of "
            "parameters such as 5B (selector 'parameters')",
        ),
        (
            phase(selector="flops", amount="5B"),
            "schedule.0.amount: 5B is not a ratio of the original between 0 and 1 (selector "
            "'flops')",
        ),
        (
            phase(selector="fraction", amount=1),
            "schedule.0.amount: 1.0 is not below 1 (selector 'fraction')",
        ),
        (phase(amount=None), "schedule.0: amount is missing"),
        ({"schedule": [{"unit": "none", "amount": 1}]}, "schedule.0: unit 'none' prunes nothing"),
        (
            phase(unit="head"),
            "schedule.0.unit: 'head' should be 'neuron', 'layer', 'hidden' or 'none'",
        ),
        ({"schedule": [{"amount": 1}]}, "schedule.0.unit: is missing and has no default"),
        (phase(rounds=0), "schedule.0.rounds: 0 "),
        (phase(rounds=1001), "schedule.0.rounds: 1001 "),
        (phase(rounds=1.5), "schedule.0.rounds: 1.5 "),
        ({"schedule": []}, "schedule: [] "),
        ({"schedule": None}, "schedule: None "),
        ({"schedule": ["neuron"]}, "schedule.0: 'neuron' "),
        ({"order": "random"}, "order: 'random' should be 'listed'"),
        ({"family": "lama"}, "family: unknown family 'lama' (did you mean 'llama'?)"),
        ({"seed": -1}, "seed: -1 "),
        ({"multiple_of": 0}, "multiple_of: 0 "),
        ({"calibration": {"batch_tokens": 0}}, "calibration.batch_tokens: 0 "),
        (
            {"calibration": 3},
            "calibration: 3 is not a mapping of keys; allowed: num_sequences, max_length, "
            "batch_tokens",
        ),
        *(
            ({"refit": value}, f"refit: {value!r} should be 'ridge' or 'none'")
            for value in ("rigde", None, True, "None")
        ),
        (
            {"protect": "wiki.jsonl"},
            "protect: 'wiki.jsonl' is not a mapping of keys; allowed: data, top, column, "
            "num_sequences",
        ),
        ({"protect": {"data": "a/b"}}, "protect.top: is missing and has no default"),
        ({"protect": {"top": 1}}, "protect.data: is missing and has no default"),
        ({"protect": {"data": "", "top": 1}}, "protect.data: '' "),
        ({"protect": {"data": "a/b", "top": 0}}, "protect.top: 0 should be greater than or"),
        ({"protect": {"data": "a/b", "top": 0.5}}, "protect.top: 0.5 should be a valid integer"),
        (
            {"protect": {"data": "a/b", "top": 1, "num_sequences": 0}},
            "protect.num_sequences: 0 should be greater than or equal to 1",
        ),
        (
            {"protect": {"data": "a/b", "top": 1, "colum": "x"}},
            "protect.colum: unknown key (did you mean 'column'?); allowed: data, top, column, ",
        ),
        *(
            (
                {"protect": {"data": data, "top": 1}},
                f"protect.data: '{data}': no such file",
            )
            for data in ("wiki.jsonl", "./wiki", "/not/there", "~/not/there.parquet")
        ),
        (
            {"evaluate": {"tasks": [{"evaluator": "chain_of_though"}]}},
            "evaluate.tasks.0.evaluator: unknown evaluator 'chain_of_though' (did you mean "
            "'chain_of_thought'?)",
        ),
        (
            {"evaluate": {"tasks": [{"evaluator": "chain_of_thought", "datta": "x"}]}},
            "evaluate.tasks.0: unknown key 'datta' (did you mean 'data'?)",
        ),
        ({"evaluate": {"tasks": [{}]}}, "evaluate.tasks.0.evaluator: is missing"),
        ({"evaluate": {"every": 0}}, "evaluate.every: 0 "),
    ],
)
def test_a_wrong_key_is_one_line(lines, keys, line):
    (only,) = lines(**keys)
    assert only.startswith(line)


@pytest.mark.parametrize(
    ("selector", "amount", "number"),
    [
        ("parameters", "5B", 5e9),
        ("parameters", "1.5B", 1.5e9),
        ("parameters", "0.5", 0.5),
        ("parameters", 5_000_000_000, 5e9),
        ("flops", 0.7, 0.7),
        ("threshold", 0.003, 0.003),
        ("threshold", 0, 0.0),
        ("count", "1K", 1000.0),
        ("fraction", "1e-1", 0.1),
    ],
)
def test_an_amount_may_be_written_in_several_ways(read, selector, amount, number):
    (spec,) = read(**phase(selector=selector, amount=amount)).rounds
    (cut,) = spec.cuts
    assert (cut.selector, cut.amount) == (selector, number)


def test_the_protect_sets_defaults(read):
    section = read(protect={"data": "a/corpus", "top": 3})
    assert section.protect == ProtectSpec(data="a/corpus", top=3, column="text", num_sequences=128)


def test_the_protect_sets_file_is_looked_for_unless_only_a_plan_is_wanted(registry, tmp_path):
    data = tmp_path / "wiki.jsonl"
    keys = {"schedule": [PHASE], "protect": {"data": str(data), "top": 1}}
    source = RecipeSource(path=Path("my.yaml"), keys={}, text="", registry=registry)
    with pytest.raises(RecipeError, match=r"protect\.data: '.*wiki\.jsonl': no such file$"):
        read_section(source, keys, prefix="ptl")
    read_section(replace(source, thorough=False), keys, prefix="ptl")
    data.write_text('{"text": "a"}\n', encoding="utf-8")
    assert read_section(source, keys, prefix="ptl").protect.data == str(data)


def test_all_problems_are_told_at_once_in_the_files_order(lines):
    found = lines(
        schedule=[{"unit": "head", "amount": 1}, {"unit": "neuron", "amount": -1}],
        order="random",
        calibration={"num_sequences": 0, "x": 1},
    )
    assert [line.split(":")[0] for line in found] == [
        "schedule.0.unit", "schedule.1.amount", "order",
        "calibration.num_sequences", "calibration.x",
    ]  # fmt: skip


def test_all_unknown_names_are_told_at_once(lines):
    found = lines(
        schedule=[{**PHASE, "criterion": "x", "selector": "y"}],
        family="z",
        evaluate={"tasks": [{"evaluator": "w"}]},
    )
    assert [line.split(":")[0] for line in found] == [
        "family", "schedule.0.selector", "schedule.0.criterion", "evaluate.tasks.0.evaluator",
    ]  # fmt: skip


def test_two_cuts_of_one_unit_cannot_be_made_together(lines):
    """One round would cut neurons twice by one set of scores."""
    (line,) = lines(schedule=[PHASE, {**PHASE, "criterion": "activation_mean"}], order="together")
    assert line.startswith("order: 'together'")
    assert "neuron" in line


def test_neurons_and_layers_can_be_cut_together(read):
    section = read(schedule=[PHASE, {"unit": "layer", "amount": 1}], order="together")
    assert [len(spec.cuts) for spec in section.rounds] == [2]


@pytest.mark.parametrize("keys", [None, 3, "words", ["schedule"]])
def test_a_section_that_is_no_mapping_is_refused(registry, keys):
    source = RecipeSource(path=Path("my.yaml"), keys={}, text="", registry=registry)
    with pytest.raises(RecipeError, match=r"^my.yaml: ptl: .* is not a mapping of keys$"):
        read_section(source, keys, prefix="ptl")


def test_a_protect_corpus_without_the_column_is_told_before_anything_runs(lines, tmp_path):
    data = tmp_path / "wiki.jsonl"
    data.write_text('{"question": "a"}\n', encoding="utf-8")
    (line,) = lines(protect={"data": str(data), "top": 1})
    assert "has no column 'text'; it has question" in line
