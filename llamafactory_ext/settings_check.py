"""Asks LLaMA-Factory's own parser, in the interpreter that trains, what is wrong with settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.errors import did_you_mean
from ptl_plugins.framework_question import NoAnswerError, ask
from ptl_plugins.stage_check import NotCheckedError

PROGRAM = Path(__file__).with_name("settings_program.py")
TIMEOUT = 120.0
"""Seconds; importing LLaMA-Factory takes about six on two idle cores."""
QUIET = {"LLAMAFACTORY_VERBOSITY": "ERROR"}


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
    words = (python, "-c", PROGRAM.read_text(encoding="utf-8"))
    try:
        answer = ask(words, text, framework="LLaMA-Factory", timeout=TIMEOUT, environment=QUIET)
    except NoAnswerError as error:
        return _failed(str(error))
    return Answer(lines=tuple(_line(*row) for row in answer["problems"]), found=answer["found"])


def _failed(why: str) -> Answer:
    return Answer(lines=(f"settings: LLaMA-Factory's parser could not check them: {why}",))


def _line(key: str, text: str, value: str, candidates: list[str]) -> str:
    place = f"settings.{key}" if key else "settings"
    return f"{place}: {text}{did_you_mean(value, candidates)}"
