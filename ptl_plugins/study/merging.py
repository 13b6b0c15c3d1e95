"""Merges what a study sets into a recipe: the text that a job really runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe_file import override
from ptl_plugins.study.references import resolved
from ptl_plugins.study.study_file import OURS, StudyError
from ptl_plugins.study.study_types import Job, Study
from ptl_plugins.yaml_file import read_yaml
from ptl_plugins.yaml_loader import BoundedLoader

Door = Literal["llamafactory", "run"]
DOOR_KEY = re.compile(r"(llamafactory|run):(.+)")
"""A key that only recipes of one door have."""
MODEL_KEYS = {"llamafactory": "model_name_or_path", "run": "model"}
"""What `model` means in a recipe of each door."""


def door_of(keys: Mapping[str, Any]) -> Door:
    """Return which command runs a recipe."""
    return "llamafactory" if "ptl" in keys else "run"


def merged_keys(
    study: Study, job: Job, words: Sequence[str], folder_of: Callable[[str], Path]
) -> dict[str, Any]:
    """Return the recipe of a job: its file's keys, the study's, the run's, the command line's.

    Args:
        study: for messages.
        job: its seed and its run folder are set as well.
        words: `KEY=VALUE` of the command line, which have the last word.
        folder_of: the model folder of a run that a value names.

    Raises:
        PTLError: the recipe cannot be read, or has no such place.
    """
    keys, _ = read_yaml(job.run.recipe)
    door = door_of(keys)
    for key, value in job.run.changes.items():
        where = f"{study.path}: runs.{job.run.name}.set.{key}"
        _set(keys, key, resolved(key, value, folder_of), door, where)
    for word in words:
        key, value = _read_word(word)
        _set(keys, key, value, door, f"--set {word}")
    return _placed(keys, job, door)


def recipe_text(keys: Mapping[str, Any]) -> str:
    """Return the merged recipe as it is written."""
    return yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True, width=100)


def require_words(words: Sequence[str]) -> None:
    """Check the words of `--set` before any recipe is read.

    Raises:
        StudyError: one is no `KEY=VALUE`, or sets what the study sets.
    """
    for word in words:
        _read_word(word)


def _read_word(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise StudyError(f"--set {word}: is not KEY=VALUE, such as model=models/smollm2")
    if key.rpartition(":")[2] in OURS:
        raise StudyError(f"--set {word}: {key} is set by the study, for each run and seed")
    try:
        return key, yaml.load(text, Loader=BoundedLoader)  # a SafeLoader
    except yaml.YAMLError:
        raise StudyError(f"--set {word}: the value is not YAML") from None


def _set(keys: dict[str, Any], key: str, value: Any, door: Door, where: str) -> None:
    """Set one dotted key; one of the other door is passed over."""
    if match := DOOR_KEY.fullmatch(key):
        if match[1] != door:
            return
        key = match[2]
    key = MODEL_KEYS[door] if key == "model" else key
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    try:
        override(keys, f"{key}={text}")
    except RecipeError as error:  # which begins with our word
        reason = str(error).removeprefix(f"--set {key}={text}: ")
        raise StudyError(f"{where}: {reason}") from None


def _placed(keys: dict[str, Any], job: Job, door: Door) -> dict[str, Any]:
    """Set the job's seed and run folder."""
    folder = str(job.run_folder.resolve())
    keys["seed"] = job.seed
    if door == "run":
        return {**keys, "run_dir": folder}
    if isinstance(keys["ptl"], dict):
        keys["ptl"].pop("seed", None)  # it would hide the one above
    return {**keys, "output_dir": folder}
