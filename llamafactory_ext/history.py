"""The training logs of transformers' Trainer: what they tell, and those of all rounds as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.health import Step
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.state_file import intact, read_state

STATE_FILE = "trainer_state.json"
REMEDY = "delete it: the plots lack its round then, nothing else does"


def merged_history(run: RunFolder) -> list[dict[str, Any]]:
    """Return the log entries of all finished rounds, their steps counted on."""
    history: list[dict[str, Any]] = []
    offset = 0
    for index in range(1, run.num_finished() + 1):
        path = run.round_folder(index) / "stage_0" / STATE_FILE
        if not path.exists():
            continue
        with intact(path, REMEDY):
            state = read_state(path, REMEDY)
            for entry in state["log_history"]:
                history.append({**entry, "step": entry["step"] + offset, "ptl_round": index})
            offset += state["global_step"]
    return history


def logged_steps(path: Path) -> Sequence[Step]:
    """Return what a `trainer_state.json` tells of the training; nothing without the file.

    Raises:
        RunFolderError: the file is damaged.
    """
    if not path.is_file():
        return []
    remedy = f"delete {path.parent}, and the stage trains again"
    with intact(path, remedy):
        return steps_of(read_state(path, remedy)["log_history"])


def steps_of(entries: Iterable[Mapping[str, Any]]) -> Sequence[Step]:
    """Return what the entries tell of the training; those of evaluations are passed over."""
    return [step for step in map(step_of, entries) if step is not None]


def step_of(entry: Mapping[str, Any]) -> Step | None:
    """Return what one entry tells of the training, or None."""
    number = int(entry.get("step", 0))
    if "train_loss" in entry:
        return Step(step=number, mean_loss=float(entry["train_loss"]))
    if "loss" not in entry:
        return None
    norm = entry.get("grad_norm")
    return Step(
        step=number,
        loss=float(entry["loss"]),
        gradient_norm=None if norm is None else float(norm),
    )
