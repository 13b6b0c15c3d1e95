"""A stage of `ptl run` with a teacher: its key in the stage's yaml, and who reads it there."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from llamafactory_ext import patches
from llamafactory_ext.recipe import distillation_problems
from ptl_plugins.errors import PTLError
from ptl_plugins.framework_question import ask
from ptl_plugins.model_config import model_folder
from ptl_plugins.recipe_models import DistillModel
from ptl_plugins.stage_types import LaunchSpec, StageSpec
from ptl_plugins.types import DistillSpec

REPORT = "distillation.jsonl"
"""What a training run notes of its teacher when it ends, in its `output_dir`."""
TIMEOUT = 120.0
ZERO_2 = 2
"""The highest stage of ZeRO that leaves whole weights on every rank."""
PROGRAM = """
import importlib.util, json, sys
from importlib.metadata import PackageNotFoundError, version
found = importlib.util.find_spec("llamafactory_ext") is not None
found = found and importlib.util.find_spec("llamafactory_ext.distilling") is not None
try:
    framework = version("llamafactory")
except PackageNotFoundError:
    framework = None
json.dump({"ptl": found, "llamafactory": framework}, sys.stdout)
"""

logger = logging.getLogger("ptl_plugins.distillation")


def teacher_keys(spec: DistillSpec, original: str) -> dict[str, Any]:
    """Return the key of a stage's yaml; the teacher in it is a folder.

    Raises:
        PTLError: there is no such model.
    """
    folder = model_folder(spec.model(original)).resolve()
    return {patches.TEACHER: {**dataclasses.asdict(spec), "teacher": str(folder)}}


def require_teachable(stage: StageSpec) -> None:
    """Make sure that a stage's interpreter has PTL, whose trainer it needs.

    Raises:
        PTLError: it lacks PTL, or its LLaMA-Factory is none that PTL enters, or a setting does
            not go with a teacher: another loss, weights in shards.
    """
    if problems := taught_problems(stage.settings):
        raise PTLError("; ".join(problems))
    require_interpreter(stage)


def taught_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys that do not go with a teacher, `settings.KEY: why`; nothing is started."""
    problems = [*distillation_problems(settings), *sharding_problems(settings)]
    return [f"settings.{problem}" for problem in problems]


def require_interpreter(stage: StageSpec) -> None:
    """Make sure that a stage's interpreter has PTL and a LLaMA-Factory that it enters.

    Raises:
        PTLError: it has not; the line begins with `python:`.
    """
    if stage.launch.launcher == LaunchSpec().launcher:  # else the interpreter is not this machine's
        _require_ptl(stage.python or sys.executable)


def sharding_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys that shard the weights, of whose lm_head no rank would hold a whole one."""
    stage = _zero_stage(settings.get("deepspeed"))
    remedy = "shards the weights, which does not go with a teacher; use DDP or DeepSpeed ZeRO-2"
    given = {
        "fsdp": repr(settings.get("fsdp")) if settings.get("fsdp") else None,
        "deepspeed": f"ZeRO-{stage}" if stage > ZERO_2 else None,
    }
    return [f"{key}: {value}: {remedy}" for key, value in given.items() if value]


def _zero_stage(config: Any) -> int:
    """Return the stage of a DeepSpeed config or its file; one that cannot be read has none."""
    try:
        if isinstance(config, str):
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        return int(config["zero_optimization"]["stage"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0  # LLaMA-Factory's own parser tells what is wrong with it


@functools.lru_cache
def _require_ptl(python: str) -> None:
    answer = ask((python, "-c", PROGRAM), "", framework="LLaMA-Factory", timeout=TIMEOUT)
    if not answer["ptl"]:
        raise PTLError(
            f"python: {python} has no PTL that can distil, which a stage with a teacher needs; "
            "install PTL there, or remove 'distill'"
        )
    if answer["llamafactory"] not in patches.SUPPORTED:
        raise PTLError(
            f"python: {python} has llamafactory {answer['llamafactory']}, but a teacher needs "
            f"{', '.join(patches.SUPPORTED)}; install it there, or remove 'distill'"
        )


def begin_taught_stage(args: dict[str, Any]) -> dict[str, Any]:
    """Take the teacher out of LLaMA-Factory's arguments, and let its trainer distil.

    A mistake ends the process with one line and exit code 2. What the teacher took is told by
    `ptl run` (`say_report`), which is where the stage's output is seen as well.
    """
    from llamafactory_ext.launching import end_with

    try:
        if (problem := patches.unsupported_version()) is not None:
            raise PTLError(problem)
        spec = DistillSpec(**DistillModel.model_validate(args[patches.TEACHER]).model_dump())
    except pydantic.ValidationError as error:
        end_with(PTLError(f"{patches.TEACHER}: {error.errors()[0]['msg']}"))
    except PTLError as error:
        end_with(error)
    if spec.is_on:
        patches.enter_distillation(spec, spec.teacher)
    return {key: value for key, value in args.items() if key != patches.TEACHER}


def say_report(folder: Path) -> None:
    """Log what the teacher of a finished stage took, if it had one."""
    path = folder / REPORT
    if path.is_file():
        from llamafactory_ext.distillation_report import read_report

        logger.info("PTL: %s", read_report(path))
