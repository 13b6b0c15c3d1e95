"""How much a run trained: steps, tokens and documents by round, from what its stages left."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.kept_files import TRAINED
from ptl_plugins.parts import part_sizes

STATE, LOG, PART = "trainer_state.json", "train.log", "data/part.jsonl"
SAID = {
    "examples": re.compile(r"Num examples = ([\d,]+)"),
    "epochs": re.compile(r"Num Epochs = ([\d,]+)"),
    "batch": re.compile(r"Total train batch size .*= ([\d,]+)"),
    "steps": re.compile(r"Total optimization steps = ([\d,]+)"),
}
"""Lines of the trainer's log."""
DEFAULT_CUTOFF = 2048
"""LLaMA-Factory's own cutoff_len."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the stages of one round trained on; None where nothing tells it."""

    round: int
    steps: int | None
    tokens: int | None
    """Blocks times their length: packed, as continual pre-training is."""
    documents: int | None


@dataclass(frozen=True, kw_only=True)
class _Stage:
    steps: int | None = None
    tokens: int | None = None


def trainings_of(
    run_folder: Path, manifest: Mapping[str, Any], num_rounds: int, weights: Sequence[int]
) -> list[Training]:
    """Return the training of every finished round.

    Args:
        run_folder: with its stages' folders, models not needed.
        manifest: the run's, for the stages' settings.
        num_rounds: how many rounds are finished.
        weights: of every round's part of the corpus; empty: not known.
    """
    recipe = manifest["recipe"]
    stages, ranks = recipe.get("stages", []), manifest.get("num_ranks", 1)
    documents = _documents(recipe, weights)
    return [
        _training(run_folder / f"round_{index:02d}", index, stages, ranks, documents)
        for index in range(1, num_rounds + 1)
    ]


def _training(
    folder: Path, index: int, stages: Sequence[Any], ranks: int, documents: Sequence[int] | None
) -> Training:
    found = [
        _stage(folder / f"stage_{at}", stage, ranks)
        for at, stage in enumerate(stages)
        if _is_in(stage, index)
    ]
    return Training(
        round=index,
        steps=_sum([stage.steps for stage in found]),
        tokens=_sum([stage.tokens for stage in found]),
        documents=_part(folder, documents, index),
    )


def _stage(folder: Path, stage: Mapping[str, Any], ranks: int) -> _Stage:
    if stage.get("backend") != "llamafactory":
        return _Stage()
    settings = stage.get("settings", {})
    length = int(settings.get("cutoff_len") or DEFAULT_CUTOFF)
    for path in (folder / STATE, folder / TRAINED / STATE):
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            return _of_state(state, settings, length, ranks)
    return _of_log(folder / LOG, length)


def _of_state(
    state: Mapping[str, Any], settings: Mapping[str, Any], length: int, ranks: int
) -> _Stage:
    """Return what a trainer's state tells; the epochs at its first step tell the blocks."""
    steps, tokens = state["global_step"], state.get("num_input_tokens_seen")
    logged = [entry for entry in state["log_history"] if entry.get("step") and entry.get("epoch")]
    if tokens or not logged:
        return _Stage(steps=steps, tokens=tokens or None)
    first, last = logged[0], logged[-1]
    accumulated = int(settings.get("gradient_accumulation_steps") or 1)
    batch = int(state.get("train_batch_size") or 1) * accumulated * ranks
    blocks = round(first["step"] * batch / first["epoch"])
    return _Stage(steps=steps, tokens=round(last["epoch"] * blocks) * length)


def _of_log(log: Path, length: int) -> _Stage:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    said: dict[str, int] = {}
    for name, line in SAID.items():
        if match := line.search(text):
            said[name] = int(match[1].replace(",", ""))
    if len(said) < len(SAID):
        return _Stage(steps=said.get("steps"))
    blocks = min(said["steps"] * said["batch"], said["examples"] * said["epochs"])
    return _Stage(steps=said["steps"], tokens=blocks * length)


def _part(folder: Path, documents: Sequence[int] | None, index: int) -> int | None:
    """Return the documents of a round's part: those of its stage's file, or of the corpus."""
    parts = sorted(folder.glob(f"stage_*/{PART}"))
    if parts:
        return sum(1 for line in parts[0].read_bytes().splitlines() if line.strip())
    return documents[index - 1] if documents else None


def _documents(recipe: Mapping[str, Any], weights: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many documents each round has of the local files that a yaml names, or None."""
    stages = recipe.get("stages", [])
    settings = stages[0].get("settings", {}) if stages and not recipe.get("data") else {}
    sizes = [_size(settings, name.strip()) for name in str(settings.get("dataset", "")).split(",")]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    try:
        return part_sizes(sum(known), weights) if weights else None
    except PTLError:  # the files are others by now
        return None


def _size(settings: Mapping[str, Any], name: str) -> int | None:
    folder = Path(str(settings.get("dataset_dir", "data")))
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        lines = (folder / info[name]["file_name"]).read_bytes().splitlines()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not str(info[name]["file_name"]).endswith(".jsonl"):
        return None
    size = sum(1 for line in lines if line.strip())
    return min(size, int(settings.get("max_samples") or size))


def _is_in(stage: Mapping[str, Any], index: int) -> bool:
    first, last = stage.get("rounds") or (1, index)
    return bool(first <= index <= last)


def _sum(values: Sequence[int | None]) -> int | None:
    """Return the sum; None where one is missing, 0 of a round without a stage."""
    found = [value for value in values if value is not None]
    return sum(found) if len(found) == len(values) else None
