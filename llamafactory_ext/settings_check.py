"""Asks LLaMA-Factory's own parser, in the interpreter that trains, what is wrong with settings."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.errors import did_you_mean
from ptl_plugins.stage_check import NotCheckedError
from ptl_plugins.termination import terminating

PROGRAM = Path(__file__).with_name("settings_program.py")
TIMEOUT = 120.0
"""Seconds; importing LLaMA-Factory takes about six on two idle cores."""
LAST_LINES = 5
ALONE = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LLAMAFACTORY_VERBOSITY": "ERROR",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
"""One process, on the CPU, without a network and without PTL's own door."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_",
            "TORCHELASTIC_", "OMPI_", "PMI_", "MV2_")  # fmt: skip
"""Beginnings of variables that would make it wait for other processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the program in the framework's interpreter found."""

    lines: tuple[str, ...] = ()
    """One per problem, `settings.KEY: ...` or `settings: ...`."""
    found: bool = True
    """Whether LLaMA-Factory is importable there."""


def check_settings(python: str, keys: Mapping[str, Any]) -> str | None:
    """Return what LLaMA-Factory's parser finds wrong with a yaml's keys, one line each, or None.

    Raises:
        NotCheckedError: it is not importable in `python`.
    """
    answer = ask_parser(python, yaml.safe_dump(dict(keys), sort_keys=False))
    if not answer.found:
        raise NotCheckedError(
            f"LLaMA-Factory is not importable in {python}: its settings were not checked"
        )
    return "\n".join(answer.lines) or None


@functools.lru_cache
def ask_parser(python: str, text: str) -> Answer:
    """Run the program once per interpreter and yaml."""
    command = [python, "-c", PROGRAM.read_text(encoding="utf-8")]
    try:
        with terminating():  # so that the program never outlives this process
            done = subprocess.run(
                command,
                input=text,
                env=_environment(),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return _failed(f"{python} took more than {TIMEOUT:g} s; is LLaMA-Factory usable there?")
    except OSError as error:
        return _failed(f"{python} cannot be started ({error.strerror})")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = " | ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        return _failed(f"{python} ended with {done.returncode}: {last}")
    return Answer(lines=tuple(_line(*row) for row in answer["problems"]), found=answer["found"])


def _failed(why: str) -> Answer:
    return Answer(lines=(f"settings: LLaMA-Factory's parser could not check them: {why}",))


def _line(key: str, text: str, value: str, candidates: list[str]) -> str:
    place = f"settings.{key}" if key else "settings"
    return f"{place}: {text}{did_you_mean(value, candidates)}"


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHED)}
    return {**kept, **ALONE}
