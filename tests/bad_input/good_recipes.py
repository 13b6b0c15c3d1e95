"""Recipes of both doors in which a test makes one thing wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

RUN: Mapping[str, Any] = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": 4, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
    "recover": [{"backend": "fake"}],
}
"""Of `ptl run`, with the backend of `FAKE`."""
SECTION: Mapping[str, Any] = {
    "calibration": {"num_sequences": 4, "max_length": 32},
    "schedule": [{"unit": "neuron", "amount": 8, "rounds": 2}],
}
LLAMAFACTORY: Mapping[str, Any] = {
    "model_name_or_path": "model",
    "stage": "pt",
    "do_train": True,
    "finetuning_type": "full",
    "use_cpu": True,
    "bf16": True,
    "dataset_dir": "data",
    "dataset": "tiny",
    "cutoff_len": 64,
    "output_dir": "out",
    "report_to": "none",
    "ptl": SECTION,
}
"""Of `llamafactory-cli train`."""
STUDY: Mapping[str, Any] = {
    "title": "a study",
    "runs": {"control": {"recipe": "run.yaml"}, "ours": {"recipe": "run.yaml"}},
}
FAKE = ("-p", "ptl_plugins.testing.fake_backend")


def write_good_recipes(folder: Path) -> None:
    """Write `run.yaml`, `train.yaml` and `study.yaml`."""
    for name, keys in (("run", RUN), ("train", LLAMAFACTORY), ("study", STUDY)):
        write_yaml(folder / f"{name}.yaml", keys)


def write_yaml(path: Path, keys: Mapping[str, Any]) -> Path:
    """Write a mapping as YAML."""
    path.write_text(yaml.safe_dump(copy.deepcopy(dict(keys)), sort_keys=False), encoding="utf-8")
    return path


def changed(keys: Mapping[str, Any], place: str, value: object) -> dict[str, Any]:
    """Return a copy with another value at a dotted place, `schedule.0.amount`; `...` removes it."""
    copied: dict[str, Any] = copy.deepcopy(dict(keys))
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner: Any = copied
    for part in path:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copied
