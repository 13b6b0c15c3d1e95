"""Asks EasyR1 itself, in the interpreter that trains, what is wrong with a stage's yaml."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.framework_question import NoAnswerError, ask
from ptl_plugins.stage_check import NotCheckedError

PROGRAM = Path(__file__).with_name("easyr1_check_program.py")
TIMEOUT = 180.0
"""Seconds; on two idle cores the imports take about ten, with vLLM several times that."""
PLACES = {
    "data.format_prompt": "settings.prompt",
    "data.override_chat_template": "settings.chat_template",
    "worker.reward.reward_function": "settings.reward.file",
}
"""Keys that a recipe sets by other names."""


def easyr1_environment(home: Path) -> dict[str, str]:
    """Return the variables with which `import verl` finds the clone, before any installed verl."""
    path = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path}


def check_in_easyr1(python: str, home: Path, keys: Mapping[str, Any]) -> str | None:
    """Return what EasyR1's own config finds wrong with a yaml's keys, one line each, or None.

    Args:
        python: the stage's interpreter.
        home: the clone.
        keys: of the yaml, nested.

    Raises:
        NotCheckedError: EasyR1 cannot be imported in `python`.
    """
    try:
        answer = _ask(python, home, json.dumps({"home": str(home), "keys": keys}))
    except NoAnswerError as error:
        return f"settings: EasyR1 could not check them: {error}"
    if answer["missing"]:
        raise NotCheckedError(
            f"EasyR1 of {home} is not importable in {python} ({answer['missing']}): its settings "
            "were not checked"
        )
    return "\n".join(_line(*row) for row in answer["problems"]) or None


@functools.lru_cache
def _ask(python: str, home: Path, question: str) -> Mapping[str, Any]:
    """Run the program once per interpreter, clone and yaml."""
    words = (python, "-c", PROGRAM.read_text(encoding="utf-8"))
    environment = easyr1_environment(home)
    return ask(words, question, framework="EasyR1", timeout=TIMEOUT, environment=environment)


def _line(key: str, text: str) -> str:
    place = f"settings.config.{key}" if key else "settings.home"
    return f"{PLACES.get(key, place)}: {text}"
