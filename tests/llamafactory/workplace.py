"""Recipes made from one base, and the real LLaMA-Factory run on them in a folder."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

BIN = Path(sys.executable).parent

BASE = {
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
    "logging_steps": 1,
    "report_to": "none",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1.0e-3,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "ptl": {
        "calibration": {"num_sequences": 16},
        "schedule": [
            {"unit": "neuron", "amount": 8, "rounds": 2},
            {"unit": "layer", "amount": 1, "rounds": 1},
        ],
        "evaluate": {
            "before_recovery": True,
            "tasks": [
                {
                    "evaluator": "chain_of_thought",
                    "data": "data/held_out.jsonl",
                    "num_problems": 8,
                }
            ],
        },
    },
}
ZERO2 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2, "overlap_comm": False, "contiguous_gradients": True},
}


@dataclass(frozen=True)
class Workplace:
    """A folder with `model` and `data`, in which commands are run."""

    folder: Path

    def write(self, name: str, keys: dict) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        return path

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.folder,
            env={**inherited, **quiet, "PATH": f"{BIN}:{os.environ['PATH']}", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0, **env: str) -> subprocess.CompletedProcess:
        process = self.start(*command, **env)
        try:
            out, err = process.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == code, f"{process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def kill_when(self, process: subprocess.Popen, path: Path) -> None:
        """Kill -9 the command and its children as soon as `path` exists."""
        deadline = time.monotonic() + 240
        while not path.exists():
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def recipe(**changes: object) -> dict:
    """Return the base recipe with top-level keys changed; None takes a key out."""
    keys = {**copy.deepcopy(BASE), **changes}
    return {key: value for key, value in keys.items() if value is not None}


def records(folder: Path) -> list[dict]:
    """Return the records of a run folder, in order of the rounds."""
    return [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("round_*/record.json"))]
