"""Asks a program in a framework's interpreter: text in, one JSON object out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.termination import terminating

LAST_LINES = 5
ALONE = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
"""One process, on the CPU, without a network and without PTL's own door."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_",
            "TORCHELASTIC_", "OMPI_", "PMI_", "MV2_")  # fmt: skip
"""Beginnings of variables that would make it wait for other processes."""


class NoAnswerError(PTLError):
    """The program could not be asked; the text says why, beginning with its interpreter."""


def ask(
    words: Sequence[str],
    text: str,
    *,
    framework: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run a program and return the JSON object that it prints; arguments as of `run_alone`.

    Raises:
        NoAnswerError: it cannot be started, took too long, or printed no JSON.
    """
    done = run_alone(
        words, text, framework=framework, timeout=timeout, environment=environment, folder=folder
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        last = " | ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise NoAnswerError(f"{words[0]} ended with {done.returncode}: {last}")
    return answer


def run_alone(
    words: Sequence[str],
    text: str = "",
    *,
    framework: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in one process on the CPU.

    Args:
        words: the interpreter first.
        text: its stdin.
        framework: a name for the message of a time-out.
        timeout: seconds.
        environment: variables beside those of `ALONE`.
        folder: where it works.

    Raises:
        NoAnswerError: it cannot be started, or took too long.
    """
    try:
        with terminating():  # so that the program never outlives this process
            return subprocess.run(
                words,
                input=text,
                env={**_environment(), **(environment or {})},
                cwd=folder,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                check=False,
            )
    except subprocess.TimeoutExpired:
        why = f"took more than {timeout:g} s; is {framework} usable there?"
    except OSError as error:
        why = f"cannot be started ({error.strerror})"
    raise NoAnswerError(f"{words[0]} {why}")


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHED)}
    return {**kept, **ALONE}
