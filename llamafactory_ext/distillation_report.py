"""What distillation cost a training run: time of the teacher, its bytes, the peak of memory."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from ptl_plugins.durable import write_text

GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationReport:
    """Of the main rank; every other rank holds a teacher as well."""

    step: int
    """The last one."""
    teacher_seconds: float
    """In the teacher's forward passes, its lm_head among them."""
    train_seconds: float
    """Of the whole training."""
    teacher_bytes: int
    """Parameters and buffers."""
    peak_bytes: int
    """Most that was allocated on a CUDA device in the training; else the process's peak so far."""
    device: str
    """Of the student."""

    def write(self, path: Path) -> None:
        """Write it as one line of JSON, which `ptl run` takes into its events."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dataclasses.asdict(self)) + "\n")

    def __str__(self) -> str:
        share = self.teacher_seconds / self.train_seconds if self.train_seconds else 0.0
        return (
            f"the teacher took {self.teacher_seconds:.1f} s of {self.train_seconds:.1f} s "
            f"({share:.0%}) and {self.teacher_bytes / GB:.3f} GB; peak memory "
            f"{self.peak_bytes / GB:.3f} GB on {self.device}"
        )


def read_report(path: Path) -> DistillationReport:
    """Read what a training run wrote."""
    return DistillationReport(**json.loads(path.read_text(encoding="utf-8")))


def reset_peak(device: torch.device) -> None:
    """Start to measure the peak of a CUDA device anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return bytes: what a CUDA device allocated at most, else the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
