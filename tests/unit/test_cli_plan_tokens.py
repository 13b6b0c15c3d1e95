"""`ptl plan --tokens N`: the paper's FLOPs column, from a config alone."""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml

from ptl_plugins.cli.main import main
from ptl_plugins.testing import write_tiny_corpus

LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
CODE_TASK = (
    {"unit": "neuron", "criterion": "activation_max", "amount": 1000, "rounds": 5},
    {"unit": "layer", "criterion": "l2", "amount": 1, "rounds": 2},
)
"""The shape of the paper's code task: 5000 neurons of every layer, and two layers."""


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe for the config of Llama3-8B, which has no weights."""

    def write(*phases):
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps(LLAMA3_8B), encoding="utf-8")
        write_tiny_corpus(tmp_path / "data", num_documents=9)
        keys = {
            "model_name_or_path": str(model),
            "stage": "pt",
            "do_train": True,
            "finetuning_type": "full",
            "dataset_dir": str(tmp_path / "data"),
            "dataset": "tiny",
            "output_dir": str(tmp_path / "out"),
            "ptl": {"schedule": list(phases or CODE_TASK)},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(keys), encoding="utf-8")
        return path

    return write


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Run `ptl` in this process; return exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *map(str, words)])
        with pytest.raises(SystemExit) as raised:
            main()
        return raised.value.code or 0, *capsys.readouterr()

    return run


def test_the_papers_column_is_in_the_json(recipe, ptl):
    code, out, _ = ptl("plan", recipe(), "--tokens", 604, "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows[0]["flops"] == 2 * 604 * (rows[0]["non_embedding"] + 128256 * 4096)
    assert [f"{rows[i]['flops'] / 1e12:.1f}" for i in (0, 7)] == ["9.1", "6.3"], "Table 1"


def test_the_table_has_the_column_and_says_what_it_counts(recipe, ptl):
    _, out, _ = ptl("plan", recipe(), "--tokens", 1234)
    assert "of 1,234 tokens" in out
    assert "2 x (non-embedding weights + lm_head) x tokens, the paper's count" in out
    assert "18.5 T" in next(line for line in out.splitlines() if "original" in line)


def test_without_tokens_nothing_is_said_about_them(recipe, ptl):
    path = recipe()
    _, table, _ = ptl("plan", path)
    _, rows, _ = ptl("plan", path, "--json")
    assert "lm_head" not in table
    assert not re.search(r"of [\d,]+ tokens", table)
    assert all("flops" not in row for row in json.loads(rows))


def test_where_only_the_scores_will_tell_the_shape_there_are_no_flops(recipe, ptl):
    path = recipe({"unit": "neuron", "selector": "threshold", "amount": 0.25})
    _, out, _ = ptl("plan", path, "--tokens", 604, "--json")
    assert [row["flops"] is None for row in json.loads(out)] == [False, True]
    code, table, _ = ptl("plan", path, "--tokens", 604)
    assert code == 0
    assert "by scores" in table


@pytest.mark.parametrize("value", ["0", "-5", "6.5", "many", "", "1e3", "\u00b2", str(10**400)])
def test_no_number_of_tokens_is_one_line(recipe, ptl, value):
    code, out, err = ptl("plan", recipe(), "--tokens", value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--tokens" in err
    assert f"'{value[:40]}' is not a positive whole number" in err
