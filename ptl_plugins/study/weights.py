"""The weights of a finished run: where its last model is, and which of them are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.kept_files import PRUNED, TRAINED
from ptl_plugins.run_folder import MODEL

CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")


def last_model(run_folder: Path) -> Path | None:
    """Return the folder of a run's last model, or None where it has none (any more).

    Under `llamafactory-cli` it is the run folder; of `ptl run` it is that of the last round which
    has one.
    """
    rounds = sorted(run_folder.glob(f"round_*/{MODEL}"), reverse=True)
    return next((folder for folder in (run_folder, *rounds) if _is_model(folder)), None)


def delete_weights(run_folder: Path, *, keep_last: bool) -> None:
    """Delete the models of a finished run, and the checkpoints and optimizer states of its stages.

    Records, plans, scores, logs and configs stay.
    """
    kept = last_model(run_folder) if keep_last else None
    for folder in _model_folders(run_folder):
        if folder != kept:
            shutil.rmtree(folder)
    if kept is None:
        for pattern in WEIGHTS:
            for path in run_folder.glob(pattern):
                path.unlink()


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and any(folder.glob("*.safetensors"))


def _model_folders(run_folder: Path) -> Iterator[Path]:
    of_stages = (f"stage_*/{name}" for name in (MODEL, TRAINED, "checkpoint-*"))
    for pattern in (MODEL, PRUNED, *of_stages):
        yield from (path for path in run_folder.glob(f"round_*/{pattern}") if path.is_dir())
