"""Runs `llamafactory-cli train` on a recipe and follows its run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError
from ptl_plugins.run_folder import EVENTS, RECORD

WEIGHTS = {
    "start": 15.0,
    "profile": 8.0,
    "evaluate": 12.0,
    "evaluate_pruned": 12.0,
    "recover": 72.0,
}
"""Seconds by step on two cores; only their ratios matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """How many steps of each kind a run has, to know how far it is."""

    num_rounds: int
    num_profiles: int
    num_evaluations: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole on the reference machine."""
        steps = self.num_profiles * WEIGHTS["profile"] + self.num_evaluations * WEIGHTS["evaluate"]
        return WEIGHTS["start"] + steps + self.num_rounds * WEIGHTS["recover"]


def train(
    recipe: Path, run: Path, log: Path, outline: Outline, show: Callable[[float, str], None]
) -> None:
    """Run the recipe to its end, output to `log`; a run cut short before is taken up again.

    Raises:
        PTLError: the command failed; the log's last lines are in the message.
    """
    before = len(_events(run))
    # the command lies beside this interpreter, whether or not its folder is on the PATH
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "train", str(recipe)]
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=_environment())
        try:
            while child.poll() is None:
                show(*_progress(run, before, outline))
                time.sleep(1.0)
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.returncode:
        raise PTLError(_failure(command, child.returncode, log))


def is_finished(run: Path, num_rounds: int) -> bool:
    """Whether the run's last round and last model are in place."""
    recorded = (run / f"round_{num_rounds:02d}" / RECORD).exists()
    return recorded and (run / "config.json").exists() and any(run.glob("*.safetensors"))


def _environment() -> dict[str, str]:
    threads = str(len(os.sched_getaffinity(0)))
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OMP_NUM_THREADS": threads}
    return {**os.environ, **quiet, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _progress(run: Path, before: int, outline: Outline) -> tuple[float, str]:
    """Return the fraction done and what is being done, from events and the trainer's log."""
    events = _events(run)
    steps = [event for event in events if event["event"] == "step"]
    finished = sum(event["event"] == "round_finished" and event["round"] > 0 for event in events)
    done = WEIGHTS["start"] if len(events) > before else 0.0
    done += sum(WEIGHTS.get(event["step"], 0.0) for event in steps)
    text = f"round {min(finished + 1, outline.num_rounds)} of {outline.num_rounds}"
    percent = _percent(run / f"round_{finished + 1:02d}" / "stage_0" / "trainer_log.jsonl")
    recovered = any(e["step"] == "recover" and e["round"] == finished + 1 for e in steps)
    if percent is not None and not recovered:
        done += WEIGHTS["recover"] * percent / 100
        text += f", recovery {percent:.0f} %"
    return done / outline.seconds, text


def _events(run: Path) -> list[dict[str, Any]]:
    return list(_json_lines(run / EVENTS))


def _percent(log: Path) -> float | None:
    percents = [line["percentage"] for line in _json_lines(log) if "percentage" in line]
    return float(percents[-1]) if percents else None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # being written this moment, or cut short by a kill
                continue


def _failure(command: list[str], code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code == USER_ERROR_EXIT_CODE:
        return next((line.removeprefix("ptl: ") for line in reversed(lines) if line), "")
    tail = "\n".join(lines[-10:])
    return f"{' '.join(command)} ended with code {code}; {log} ends in:\n{tail}"
