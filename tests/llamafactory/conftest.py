"""A tiny model and corpus, and one uninterrupted run on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workplace import ZERO2, Workplace, recipe

from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("llamafactory")
    write_tiny_checkpoint(folder / "model")
    write_tiny_corpus(folder / "data")
    (folder / "zero2.json").write_text(json.dumps(ZERO2), encoding="utf-8")
    return Workplace(folder)


@pytest.fixture(scope="session")
def plain_run(workplace: Workplace) -> Path:
    """An uninterrupted run in a single process, logged to TensorBoard."""
    workplace.write("plain.yaml", recipe(output_dir="plain", report_to="tensorboard"))
    workplace.run("llamafactory-cli", "train", "plain.yaml")
    return workplace.folder / "plain"
