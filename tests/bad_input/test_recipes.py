"""A recipe of `ptl run` with one thing wrong: keys, types, ranges, contradictions, paths."""

from __future__ import annotations

import pytest
from good_recipes import FAKE, RUN, changed, write_yaml

DEEP = "x" * 5000
CASES = {
    # keys
    "unknown key": ("shedule", [], ("shedule", "unknown key", "did you mean 'schedule'")),
    "unknown key of data": ("data.pth", "x", ("data.pth", "unknown key", "path")),
    "unknown key of a phase": ("schedule.0.amonut", 3, ("schedule.0.amonut", "amount")),
    "unknown key of a stage": ("recover.0.setings", {}, ("recover.0.setings", "settings")),
    "unknown key of launch": ("recover.0.launch", {"gpus": 1}, ("recover.0.launch.gpus",)),
    "unknown key of keep": ("keep", {"round": "all"}, ("keep.round", "rounds")),
    "unknown key of a teacher": ("distill", {"teacher": "original", "weight": 0.5, "t": 2.0},
                                 ("distill.t", "unknown key")),
    "unknown setting of the backend": ("recover.0.settings.dose", 1, ("recover.0.settings.dose",)),
    "a key that is a number": ("7", 1, ("7",)),
    "a key of control characters": ("mod\x07el\nptl: fine", 1, ("mod\\x07el",)),
    "no schedule": ("schedule", ..., ("schedule", "is missing")),
    "no model": ("model", ..., ("model", "is missing")),
    "no data": ("data", ..., ("data", "is missing")),
    "no path of data": ("data", {"column": "text"}, ("data.path", "is missing")),
    "no backend": ("recover.0", {"settings": {}}, ("recover.0.backend", "is missing")),
    "no evaluator": ("evaluate.tasks", [{"data": "x"}], ("evaluate.tasks.0.evaluator",)),
    # types
    "a schedule that is a mapping": ("schedule", {"unit": "neuron"}, ("schedule", "list")),
    "a schedule that is text": ("schedule", "neuron", ("schedule", "'neuron'", "list")),
    "a phase that is text": ("schedule.0", "neuron", ("schedule.0", "'neuron'", "mapping")),
    "a phase that is null": ("schedule.0", None, ("schedule.0", "None", "mapping")),
    "an amount that is a list": ("schedule.0.amount", [8], ("schedule.0.amount", "[8]")),
    "an amount that is a word": ("schedule.0.amount", "many", ("schedule.0.amount", "'many'")),
    "an amount that is true": ("schedule.0.amount", True, ("schedule.0.amount", "True")),
    "rounds that are a word": ("schedule.0.rounds", "two", ("schedule.0.rounds", "'two'")),
    "rounds that are half": ("schedule.0.rounds", 1.5, ("schedule.0.rounds", "1.5")),
    "a unit that is a number": ("schedule.0.unit", 3, ("schedule.0.unit", "3", "neuron")),
    "a criterion that is a list": ("schedule.0.criterion", ["l2"], ("schedule.0.criterion",)),
    "a model that is a list": ("model", ["model"], ("model", "string")),
    "a model that is a date": ("model", "!date", ("model", "string")),
    "data that is text": ("data", "data/tiny.jsonl", ("data", "'data/tiny.jsonl'", "mapping")),
    "a column that is a number": ("data.column", 3, ("data.column", "string")),
    "recover that is a mapping": ("recover", {"backend": "fake"}, ("recover", "tuple")),
    "a stage that is text": ("recover.0", "fake", ("recover.0", "'fake'", "mapping")),
    "settings that are a list": ("recover.0.settings", [1], ("recover.0.settings", "[1]")),
    "settings with a number as key": ("recover.0.settings", {1: 2}, ("recover.0.settings",)),
    "a seed that is text": ("seed", "abc", ("seed", "'abc'")),
    "calibration that is a number": ("calibration", 4, ("calibration", "4", "mapping")),
    "keep that is a list": ("keep", ["all"], ("keep", "mapping")),
    "evaluation that is a list": ("evaluate", [], ("evaluate", "mapping")),
    "a task that is text": ("evaluate.tasks", ["speed"], ("evaluate.tasks.0", "'speed'")),
    "before_recovery that is a word": ("evaluate.before_recovery", "perhaps",
                                       ("evaluate.before_recovery", "'perhaps'")),
    # ranges
    "a negative amount": ("schedule.0.amount", -8, ("schedule.0.amount", "-8")),
    "an infinite amount": ("schedule.0.amount", float("inf"), ("schedule.0.amount", "inf")),
    "an amount that is no number": ("schedule.0.amount", float("nan"), ("schedule.0.amount",)),
    "half a neuron": ("schedule.0.amount", 0.5, ("schedule.0.amount", "0.5")),
    "no round": ("schedule.0.rounds", 0, ("schedule.0.rounds", "0")),
    "a million rounds": ("schedule.0.rounds", 10**6, ("schedule.0.rounds", "1000000")),
    "an empty schedule": ("schedule", [], ("schedule", "at least 1")),
    "more neurons than there are": ("schedule.0.amount", 30, ("schedule", "round 2", "30")),
    "all layers": ("schedule", [{"unit": "layer", "amount": 5}], ("schedule", "5 layers")),
    "a fraction above one": ("schedule.0", {"unit": "neuron", "selector": "fraction", "amount": 2},
                             ("schedule.0.amount", "2")),
    "a target above the model": (
        "schedule.0", {"unit": "neuron", "selector": "parameters", "amount": "7B"},
        ("schedule", "7")),
    "a multiple that leaves nothing": ("multiple_of", 1000, ("schedule", "1000")),
    "multiple_of zero": ("multiple_of", 0, ("multiple_of", "0")),
    "a negative seed": ("seed", -1, ("seed", "-1")),
    "a seed that is too large": ("seed", 2**40, ("seed", str(2**40))),
    "a seed of many digits": ("seed", int("9" * 400), ("number", "400")),
    "no sequences": ("calibration.num_sequences", 0, ("calibration.num_sequences", "0")),
    "no tokens": ("calibration.max_length", 0, ("calibration.max_length", "0")),
    "no processes": ("recover.0.launch", {"processes": 0}, ("recover.0.launch.processes", "0")),
    "a timeout of nothing": ("recover.0.launch", {"timeout": 0}, ("recover.0.launch.timeout",)),
    "an endless timeout": ("recover.0.launch", {"timeout": float("inf")}, ("timeout", "finite")),
    "a weight above one": ("distill", {"teacher": "original", "weight": 1.5},
                           ("distill.weight", "1.5")),
    "an unknown device": ("distill", {"teacher": "original", "weight": 0.5, "device": "tpu:0"},
                          ("distill.device", "'tpu:0'", "cuda")),
    "an empty model": ("model", "", ("model", "at least 1")),
    "an empty run folder": ("run_dir", "", ("run_dir", "at least 1")),
    "every zero rounds": ("evaluate.every", 0, ("evaluate.every", "0")),
    # contradictions
    "an amount with unit none": ("schedule.0", {"unit": "none", "amount": 3}, ("unit 'none'",)),
    "no amount": ("schedule.0", {"unit": "neuron"}, ("schedule.0", "amount is missing")),
    "a criterion of the other unit": ("schedule.0.criterion", "l2",
                                      ("schedule.0.criterion", "'l2' scores layers")),
    "one unit twice together": ("order", "together", ("order", "'together'", "two phases")),
    "protected neurons of a layer cut": ("protect", {"data": "data/tiny.jsonl", "top": 4},
                                         ("protect", "no phase of the schedule cuts neurons")),
    "one schedule over processes": ("learning_rate_schedule", "run", ("learning_rate_schedule",)),
    "a stage of rounds that are not": ("recover.0.rounds", [2, 5], ("recover.0.rounds", "[2, 5]")),
    "a stage that ends before it begins": ("recover.0.rounds", [2, 1], ("recover.0.rounds",)),
    "three ends": ("recover.0.rounds", [1, 2, 2], ("recover.0.rounds",)),
    "a round without work": ("schedule", [{"unit": "none"}], ("schedule.0", "unit 'none'")),
    "shares that only scores tell": ("tokens", "proportional", ("tokens", "'proportional'")),
    # names
    "an unknown unit": ("schedule.0.unit", "head", ("schedule.0.unit", "'head'", "neuron")),
    "an unknown criterion": ("schedule.0.criterion", "activation_maxx",
                             ("schedule.0.criterion", "did you mean 'activation_max'")),
    "an unknown selector": ("schedule.0.selector", "cuont", ("schedule.0.selector", "count")),
    "an unknown order": ("order", "sideways", ("order", "'sideways'", "alternating")),
    "an unknown family": ("family", "lama", ("family", "did you mean 'llama'")),
    "an unknown backend": ("recover.0.backend", "lamafactory", ("recover.0.backend", "llamafac")),
    "an unknown launcher": ("recover.0.launch", {"launcher": "slrum"}, ("launcher", "slurm")),
    "an unknown evaluator": ("evaluate.tasks", [{"evaluator": "sped"}], ("evaluator", "speed")),
    "an unknown refit": ("refit", "lasso", ("refit", "'lasso'", "ridge")),
    "a name of 5000 letters": ("schedule.0.criterion", DEEP, ("schedule.0.criterion", "xxx")),
    "a unit of 5000 letters": ("schedule.0.unit", DEEP, ("schedule.0.unit", "xxx")),
    # paths
    "a model that is not there": ("model", "./nowhere", ("model", "./nowhere", "no such folder")),
    "a model above": ("model", "../../etc", ("model", "../../etc")),
    "a model that is a file": ("model", "./run.yaml", ("model", "./run.yaml")),
    "a model with a NUL": ("model", "mo\x00del/x/y", ("model", "mo\\x00del")),
    "a model of two lines": ("model", "mo\ndel/x/y", ("model", "mo\\ndel")),
    "a model of nobody": ("model", "~nobody-is-called-so/model", ("model", "~nobody-is-called-so")),
    "a model of 5000 letters": ("model", "/" + DEEP, ("xxx", "too long")),
    "data that is not there": ("data.path", "./none.jsonl", ("data", "./none.jsonl")),
    "data of nobody": ("data.path", "~nobody-is-called-so/x.jsonl", ("data", "~nobody")),
    "data with a NUL": ("data.path", "a\x00.jsonl", ("data.path", "a\\x00.jsonl")),
    "a run folder that is a file": ("run_dir", "run.yaml", ("run.yaml", "is a file")),
    "a run folder below a file": ("run_dir", "run.yaml/out", ("run.yaml", "is a file")),
    "a run folder with a NUL": ("run_dir", "o\x00ut", ("run_dir", "o\\x00ut")),
    "a run folder of two lines": ("run_dir", "o\nut", ("run_dir", "o\\nut")),
    "a run folder of 5000 letters": ("run_dir", DEEP, ("xxx", "too long")),
    "an interpreter that is not there": ("recover.0.python", "/no/python", ("/no/python",)),
    "a protect set that is not there": ("protect", {"data": "./no.jsonl", "top": 1},
                                        ("protect.data", "./no.jsonl", "no such file")),
}  # fmt: skip
BASES = {
    "one unit twice together": {
        **RUN, "schedule": [{"unit": "neuron", "amount": 4}, {"unit": "neuron", "amount": 2}]
    },
    "protected neurons of a layer cut": {**RUN, "schedule": [{"unit": "layer", "amount": 1}]},
    "shares that only scores tell": {
        **RUN, "schedule": [{"unit": "neuron", "amount": 0.1, "selector": "threshold"}]
    },
    "a round without work": {**RUN, "recover": []},
    "a multiple that leaves nothing": {
        **RUN, "schedule": [{"unit": "neuron", "amount": 8, "rounds": 1}]
    },
}  # fmt: skip
OF_THE_RUN = {name for name in CASES if "run folder" in name} - {"an empty run folder"} | {
    "data that is not there", "data of nobody"
}  # fmt: skip
"""What `ptl validate` does not look at, as the recipe may be checked on another machine."""


def write_wrong(place, case):
    """Write the case's recipe and return what the line has to name."""
    where, value, names = CASES[case]
    keys = changed(BASES.get(case, RUN), where, value)
    if value == "!date":
        (place / "wrong.yaml").write_text("model: 2024-01-01\n" + _without_model(), "utf-8")
    else:
        write_yaml(place / "wrong.yaml", keys)
    return names


def _without_model():
    import yaml

    return yaml.safe_dump({key: value for key, value in RUN.items() if key != "model"})


@pytest.mark.parametrize("case", CASES)
def test_ptl_run_refuses(place, refused, case):
    names = write_wrong(place, case)
    refused("run", "wrong.yaml", *FAKE, names=names)


@pytest.mark.parametrize("case", [case for case in CASES if case not in OF_THE_RUN])
def test_ptl_validate_refuses(place, refused, case):
    names = write_wrong(place, case)
    refused("validate", "wrong.yaml", *FAKE, names=names)


def test_what_the_cases_change_is_good(place, ptl):
    code, out, err = ptl("validate", "run.yaml", *FAKE)
    assert (code, out, err) == (0, "run.yaml: ok, 2 rounds\n", "")
