"""Study files, and folders of records as `ptl study --record` writes them."""

from __future__ import annotations

import json

import pytest
import yaml

from ptl_plugins.study.checking import Desk
from ptl_plugins.study.records import read_records
from ptl_plugins.study.results import StudyResults
from ptl_plugins.study.study_file import read_study

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CUT = {"unit": "neuron", "criterion": "output_change", "selector": "count", "amount": 8.0}
HARDWARE = {"processor": "A CPU", "cores": 2, "memory_gb": 4.0, "accelerators": []}
SIZES = (55456, 51616, 47776)
"""Parameters after round 0, 1, 2 of the tiny model."""


@pytest.fixture
def write_study(tmp_path):
    """Write a study file; keys as in the file."""

    def write(**keys):
        path = tmp_path / "study.yaml"
        facts = {"title": "Runs in miniature", **keys}
        path.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def study_of(write_study):
    """Read a study of these keys."""
    return lambda **keys: read_study(write_study(**keys))


@pytest.fixture
def desk_of(study_of, manager, registry):
    """A desk for a study of these keys."""

    def desk(words=(), **keys):
        study = study_of(**keys)
        return Desk(study=study, words=words, manager=manager, registry=registry)

    return desk


@pytest.fixture
def write_record(tmp_path):
    """Write what is on record of one job; `losses` are those of round 0, 1, ..."""

    def write(name, seed, losses=(3.0, 2.0, 1.0), *, accuracy=None, status="finished",
              reason=None, cuts=True, documents=10, hardware=HARDWARE, rounds=None,
              data=None):  # fmt: skip
        folder = tmp_path / "records" / name / f"seed_{seed}"
        folder.mkdir(parents=True)
        planned = len(losses) - 1 if rounds is None else rounds
        _write(folder / "config.json", CONFIG)
        _write(folder / "manifest.json", _manifest(planned, seed, hardware, cuts=cuts))
        for index, loss in enumerate(losses):
            metrics = {"cot_loss": loss}
            if accuracy is not None:
                metrics["step_accuracy"] = accuracy
            (folder / f"round_{index:02d}").mkdir()
            record = _record(index, metrics, cuts=cuts)
            _write(folder / f"round_{index:02d}" / "record.json", record)
        trainings = [
            {"round": i, "steps": 4, "tokens": 1000, "documents": documents}
            for i in range(1, len(losses))
        ]
        outcome = {"status": status, "tries": 1, "seconds": 9.5, "reason": reason}
        outcome["data"] = data or {}
        _write(folder / "outcome.json", {**outcome, "trainings": trainings})
        return folder

    return write


@pytest.fixture
def results_of(tmp_path, registry):
    """Read what is on record of a study."""

    def read(study):
        (tmp_path / "records").mkdir(exist_ok=True)
        found = read_records(study, tmp_path / "records", registry)
        return StudyResults(study=study, results=found)

    return read


def _write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def _manifest(num_rounds, seed, hardware, *, cuts):
    rounds = [{"index": i + 1, "cuts": [CUT] if cuts else []} for i in range(num_rounds)]
    recipe = {
        "model": "model",
        "family": None,
        "seed": seed,
        "rounds": rounds,
        "stages": [{"backend": "llamafactory", "settings": {}}],
        "evaluation": {"tasks": [{"evaluator": "chain_of_thought"}], "every": 1},
    }
    facts = {"versions": {"torch": "2.11.0"}, "git_commit": "abc", "num_ranks": 1}
    return {**facts, "hardware": hardware, "recipe": recipe}


def _record(index, metrics, *, cuts):
    at = index if cuts else 0
    return {
        "round": index,
        "num_layers": 5,
        "width": 48 - 8 * at,
        "num_parameters": SIZES[0] - at * (SIZES[0] - SIZES[1]),
        "cuts": [CUT] if cuts and index else [],
        "recovered": {"metrics": metrics, "seconds": 1.0},
        "seconds": {"profile": 2.0, "recover": 8.0} if index else {"evaluate": 1.0},
        "stages": [],
    }
