"""What the patches rely on in LLaMA-Factory; fails when upstream changes it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
from pathlib import Path

import pytest

from llamafactory_ext import patches

ROOT = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0])

LINES = {
    "launcher.py": [
        "def launch():",
        "file_name=__file__",
        "check=True",
        "from llamafactory.train.tuner import run_exp",
    ],
    "hparams/parser.py": [
        "def _parse_train_args(args",
        "training_args, finetuning_args, generating_args = _parse_train_args(args)",
        "def read_args(args",
        "parser = HfArgumentParser(_TRAIN_ARGS)",
        "Output directory already exists and is not empty",
    ],
    "data/loader.py": [
        "    is_eval: bool = False,\n) -> ",
        'train_dict["train"] = _get_preprocessed_dataset(',
        "def _get_dataset_processor(",
        "Cannot find sufficient samples, consider increasing dataset size.",
    ],
    "train/pt/workflow.py": [
        "from .trainer import CustomTrainer",
        "import load_model, load_tokenizer",
        "model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)",
        "trainer = CustomTrainer(",
        "trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)",
        "trainer.save_model()",
        "trainer.save_state()",
    ],
}


def test_the_installed_version_is_one_that_is_supported():
    assert importlib.metadata.version("llamafactory") in patches.SUPPORTED
    assert patches.unsupported_version() is None


def test_another_version_is_refused_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    assert "pip install llamafactory==0.9.5" in patches.unsupported_version()


@pytest.mark.parametrize(("file", "line"), [(f, line) for f in LINES for line in LINES[f]])
def test_upstream_still_has_the_line(file, line):
    assert line in (ROOT / file).read_text(encoding="utf-8")


def test_the_preprocessing_still_has_the_signature_that_is_replaced():
    from llamafactory.data import loader

    names = list(inspect.signature(loader._get_preprocessed_dataset).parameters)
    assert names == [
        "dataset",
        "data_args",
        "training_args",
        "stage",
        "template",
        "tokenizer",
        "processor",
        "is_eval",
    ]
