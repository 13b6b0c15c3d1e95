"""A tiny model's recipe, and `ptl` in this process."""

from __future__ import annotations

import json
import sys

import pytest
import yaml
from typer.testing import CliRunner

from ptl_plugins.cli.main import build_app, main
from ptl_plugins.testing import write_tiny_corpus

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def write(tmp_path):
    """Write a recipe for a tiny model's config; keys override it, `ptl` is its section."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")

    write_tiny_corpus(tmp_path / "data", num_documents=3)

    def recipe(name="recipe.yaml", **keys):
        section = {
            "schedule": [
                {"unit": "neuron", "amount": 8, "rounds": 2},
                {"unit": "layer", "amount": 1},
                {"unit": "none"},
            ]
        }
        facts = {
            "model_name_or_path": str(model),
            "stage": "pt",
            "do_train": True,
            "finetuning_type": "full",
            "dataset_dir": str(tmp_path / "data"),
            "dataset": "tiny",
            "output_dir": str(tmp_path / "out"),
            "ptl": section,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump({**facts, **keys}), encoding="utf-8")
        return path

    return recipe


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Run `ptl` in this process; return exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *map(str, words)])
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capsys.readouterr()
        return raised.value.code or 0, out, err

    return run


def invoke(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)
