"""`ptl plan` and `ptl validate`: every round of a recipe, or one line for a mistake."""

from __future__ import annotations

import json

import pytest
import yaml

from ptl_plugins.geometry import geometry
from ptl_plugins.model_config import read_config

from .conftest import CONFIG, invoke


def test_plan_prints_every_round_of_the_recipe(write):
    rows = json.loads(invoke("plan", write(), "--json").stdout)
    assert [(r["round"], r["layers"], r["width"]) for r in rows] == [
        (0, 5, 48), (1, 5, 40), (2, 5, 32), (3, 4, 32), (4, 4, 32),
    ]  # fmt: skip
    assert [r["data_part"] for r in rows] == [None, "1/4", "2/4", "3/4", "4/4"]
    assert rows[1]["cut"] == "8 (count) neuron by output_change"
    assert rows[4]["cut"] == "none"
    assert rows[0]["flops_ratio"] == 1.0
    assert rows[4]["flops_ratio"] < rows[1]["flops_ratio"] < 1


def test_plan_counts_parameters_as_geometry_does(write, registry):
    path = write()
    rows = json.loads(invoke("plan", path, "--json").stdout)
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"]
    start = geometry(read_config(model), registry.families.get("qwen2"))
    for row in rows:
        shape = start.after(width=row["width"], num_layers=row["layers"])
        assert row["parameters"] == shape.num_parameters
        assert row["non_embedding"] == shape.non_embedding


def test_plan_prints_a_table_with_the_same_numbers(write, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke("plan", write())
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "neuron by" in line]
    assert [("40" in line, "1/4" in line) for line in lines] == [(True, True), (False, False)]


def schedule(*phases, **keys):
    """Return the keys of a recipe with another schedule."""
    return {"ptl": {"schedule": list(phases), **keys}}


def test_plan_says_where_only_the_scores_will_tell(write, monkeypatch):
    """From a threshold on no shape is known; the rounds before it have theirs."""
    monkeypatch.setenv("COLUMNS", "160")
    keys = schedule(
        {"unit": "neuron", "amount": 8},
        {"unit": "neuron", "selector": "threshold", "amount": 0.25, "rounds": 2},
        {"unit": "layer", "amount": 1},
    )
    path = write(**keys)
    rows = json.loads(invoke("plan", path, "--json").stdout)
    unknown = ("layers", "width", "hidden", "parameters", "non_embedding", "flops_ratio")
    assert [[row[key] is None for key in unknown] for row in rows] == [
        [False] * 6, [False] * 6, [True] * 6, [True] * 6, [True] * 6,
    ]  # fmt: skip
    assert rows[2]["cut"] == "0.25 (threshold) neuron by output_change"
    lines = [line for line in invoke("plan", path).stdout.splitlines() if " by " in line]
    assert ["by scores" in line for line in lines] == [False, True, True, True]
    assert invoke("validate", path).stdout == f"{path}: ok, 4 rounds\n"


def test_plan_meets_a_target_in_its_last_round(write):
    phase = {"unit": "neuron", "selector": "parameters", "amount": 0.8, "rounds": 3}
    rows = json.loads(invoke("plan", write(**schedule(phase)), "--json").stdout)
    counts = [row["parameters"] for row in rows]
    per_neuron = (counts[0] - counts[1]) / (rows[0]["width"] - rows[1]["width"])
    assert counts[2] > 0.8 * counts[0] >= counts[3] > 0.8 * counts[0] - per_neuron


def test_plan_shows_a_large_amount_as_it_was_written(write, ptl):
    phase = {"unit": "neuron", "selector": "parameters", "amount": "1.5B"}
    code, _, err = ptl("plan", write(**schedule(phase)))
    assert code == 2
    assert "round 1 would remove nothing: parameters 1.5B comes to none" in err
    assert err.count("\n") == 1


@pytest.fixture
def write_run(tmp_path):
    """Write a recipe of `ptl run` with these phases, for the tiny model's config."""

    def recipe(*phases, **keys):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        facts = {
            "model": str(tmp_path / "model"),
            "run_dir": str(tmp_path / "out"),
            "data": {"path": "texts.jsonl"},
            "schedule": list(phases),
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**facts, **keys}), encoding="utf-8")
        return path

    return recipe


def hidden(amount):
    return {"unit": "hidden", "selector": "count", "amount": amount}


def test_plan_tells_the_hidden_size_where_it_is_sliced(write_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = write_run({"unit": "neuron", "amount": 8}, hidden(16))
    rows = json.loads(invoke("plan", path, "--json").stdout)
    assert [row["hidden"] for row in rows] == [32, 32, 16]
    assert [row["note"] for row in rows] == [None] * 3, "it shrinks"
    text = invoke("plan", path).stdout
    assert [line.count(" 16 of 32 ") for line in text.splitlines() if " by " in line] == [0, 1]
    assert " hidden " in text
    unsliced = invoke("plan", write_run({"unit": "neuron", "amount": 8})).stdout
    assert " hidden " not in unsliced


def test_plan_tells_where_slicing_makes_the_model_larger(write_run, monkeypatch):
    """Larger than the round before left it, though smaller than the original."""
    monkeypatch.setenv("COLUMNS", "160")
    path = write_run({"unit": "neuron", "amount": 40}, hidden(1))
    rows = json.loads(invoke("plan", path, "--json").stdout)
    assert rows[1]["parameters"] < rows[2]["parameters"]
    assert [row["note"] is None for row in rows] == [True, True, False]
    assert rows[2]["note"].startswith("slicing the hidden size 32 to 31 makes the model larger, ")
    assert f"round 2: {rows[2]['note']}" in invoke("plan", path).stdout.splitlines()


def test_plan_of_slicing_behind_a_threshold_knows_no_hidden_size(write_run):
    by_scores = {"unit": "neuron", "selector": "threshold", "amount": 0.25}
    rows = json.loads(invoke("plan", write_run(by_scores, hidden(1)), "--json").stdout)
    assert [(row["hidden"], row["note"]) for row in rows] == [(32, None), *[(None, None)] * 2]


@pytest.mark.parametrize("units", [["layer"], ["hidden"], ["layer", "none"]])
@pytest.mark.parametrize("command", ["plan", "validate"])
def test_a_protect_set_of_a_recipe_that_cuts_no_neurons_is_refused(
    write_run, ptl, command, units, tmp_path
):
    phases = [{"unit": unit, **({} if unit == "none" else {"amount": 1})} for unit in units]
    keys = {"protect": {"data": "a/corpus", "top": 2}, "recover": [{"backend": "llamafactory"}]}
    path = write_run(*phases, **keys)
    code, out, err = ptl(command, path)
    assert (code, out) == (2, "")
    assert err == (
        f"ptl: {path}: protect: keeps neurons from being cut, but no phase of the schedule cuts "
        "neurons; remove protect, or add a phase of unit 'neuron'\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_protect_set_in_a_section_that_cuts_no_neurons_is_refused(write, ptl):
    keys = schedule({"unit": "layer", "amount": 1}, protect={"data": "a/corpus", "top": 2})
    path = write(**keys)
    code, _, err = ptl("plan", path)
    assert code == 2
    assert err.startswith(f"ptl: {path}: ptl.protect: keeps neurons from being cut, but no phase")


def test_validate_names_every_good_recipe(write):
    one, two = write("one.yaml"), write("two.yaml")
    result = invoke("validate", one, two)
    assert result.exit_code == 0
    assert result.stdout == f"{one}: ok, 4 rounds\n{two}: ok, 4 rounds\n"


def test_validate_tells_the_bad_ones_and_goes_on(write, ptl):
    bad, good = write("bad.yaml", ptl={"schedule": [], "order": "x"}), write("good.yaml")
    code, out, err = ptl("validate", bad, good)
    assert (code, out) == (2, f"{good}: ok, 4 rounds\n")
    assert f"{bad}: ptl.schedule: " in err
    assert f"{bad}: ptl.order: 'x' " in err


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ptl": {"schedule": [{"unit": "neuron", "amount": 48}]}}, "ptl.schedule: round 1 rem"),
        ({"ptl": None}, "ptl: None is not a mapping of keys"),
        ({"model_name_or_path": "/not/there"}, "model_name_or_path: model '/not/there': no such"),
        (
            {
                "ptl": {
                    "schedule": [{"unit": "neuron", "amount": 40}],
                    "protect": {"data": "a/corpus", "top": 9},
                }
            },
            "ptl.schedule: round 1 removes 40 neurons per layer of 48, but protect.top keeps 9",
        ),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "selector": "flops", "amount": 0.01}]}},
            "ptl.schedule: flops 0.01 cannot be reached by cutting neurons alone: width 1 still",
        ),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "amount": "5X"}]}},
            "ptl.schedule.0.amount: '5X' is not a number such as 500, 0.1 or 5B",
        ),
        ({"finetuning_type": "lora"}, "finetuning_type: 'lora': adapters"),
        (
            {"ptl": {"schedule": [{"unit": "neuron", "amount": 1, "criterion": "lst"}]}},
            "ptl.schedule.0.criterion: unknown criterion 'lst' (did you mean 'last'?)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "validate"])
def test_a_wrong_recipe_is_one_line_with_file_and_key_and_exit_code_2(
    write, ptl, command, keys, told
):
    path = write(**keys)
    code, out, err = ptl(command, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"ptl: {path}: {told}")
    assert err.count("\n") == 1


def test_a_file_without_a_section_is_told_what_it_lacks(tmp_path, ptl):
    path = tmp_path / "other.yaml"
    path.write_text("stage: pt\n", encoding="utf-8")
    code, _, err = ptl("plan", path)
    assert code == 2
    assert err.startswith(f"ptl: {path}: ")
    assert "needs a 'ptl:' section" in err


def test_a_model_that_is_quantised_or_of_no_known_family_is_refused(write, tmp_path, ptl):
    config = tmp_path / "model" / "config.json"
    for change, told in (
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported: gemma2, "),
        ({"hidden_size": "wide"}, "hidden_size: 'wide' is not a positive whole number"),
    ):
        path = write()
        config.write_text(json.dumps({**CONFIG, **change}), encoding="utf-8")
        code, _, err = ptl("validate", path)
        assert code == 2
        assert told in err


def test_validate_knows_the_data_sets_and_plan_needs_none(ptl, write):
    path = write(dataset="tini")
    code, _, err = ptl("validate", path)
    assert code == 2
    assert "(did you mean 'tiny'?)" in err
    assert ptl("plan", path)[0] == 0
