"""Asks verl itself, in the interpreter that trains, what is wrong with a stage."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.framework_question import NoAnswerError, ask
from ptl_plugins.stage_check import NotCheckedError

INSIDE = Path(__file__).with_name("in_verl")
PLUGIN = "verl_ext.in_verl.plugin"
CHECK = "verl_ext.in_verl.check"
TIMEOUT = 180.0
"""Seconds; importing verl and composing its config takes about fifteen on two idle cores."""


def inside_files(folder: Path) -> dict[Path, str]:
    """Return what runs inside verl as files below `folder`, which goes on PYTHONPATH.

    verl usually lives in an environment without PTL, so that the stage brings its own copy.
    """
    package = folder / "verl_ext"
    files = {package / "__init__.py": '"""What a stage of PTL runs inside verl."""\n'}
    for path in sorted(INSIDE.glob("*.py")):
        files[package / INSIDE.name / path.name] = path.read_text(encoding="utf-8")
    return files


def inside_environment(folder: Path, *, rollout: str) -> dict[str, str]:
    """Return the variables with which verl loads what `inside_files` wrote to `folder`."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": PLUGIN}
    if rollout == "hf_cpu":
        # the engine that verl chooses for "cuda" is the one that can run on gloo as well
        environment |= {"VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda"}
    return environment


def check_in_verl(python: str, overrides: list[str], *, rollout: str) -> str | None:
    """Return what verl finds wrong with a stage's overrides, one line each, or None.

    It also tells of a plugin that verl did not load, which verl itself only notes at debug level.

    Raises:
        NotCheckedError: verl is not importable in `python`.
    """
    try:
        answer = _ask(python, json.dumps({"overrides": overrides, "rollout": rollout}), rollout)
    except NoAnswerError as error:
        return f"settings: verl could not check them: {error}"
    if not answer["found"]:
        raise NotCheckedError(f"verl is not importable in {python}: its settings were not checked")
    return "\n".join(_placed(line) for line in answer["problems"]) or None


@functools.lru_cache
def _ask(python: str, question: str, rollout: str) -> Mapping[str, Any]:
    """Run the check once per interpreter and question, with the files that a stage brings."""
    with tempfile.TemporaryDirectory(prefix="ptl-verl-") as name:
        folder = Path(name)
        for path, text in inside_files(folder).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        environment = inside_environment(folder, rollout=rollout)
        words = (python, "-m", CHECK)
        # where the stage will work: a relative interpreter, or a clone there, is the same for both
        return ask(words, question, framework="verl", timeout=TIMEOUT, environment=environment)


def _placed(line: str) -> str:
    return line if line.startswith(("settings", "python")) else f"settings.config: {line}"
