"""What is wrong with a recipe's teacher, as far as its files tell; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ptl_plugins.errors import PTLError
from ptl_plugins.families import find_family
from ptl_plugins.model_config import config_path, read_config
from ptl_plugins.registry import Registry
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import DistillSpec, Recipe

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files that hold a vocabulary; the first one that a folder has is its tokenizer's."""


@runtime_checkable
class TaughtBackend(Protocol):
    """A backend whose stages can have a teacher, and that can tell which of them cannot."""

    distils: bool

    def check_taught(self, stage: StageSpec) -> str | None:
        """Return what does not go with a teacher, a line per problem as `Backend.check` does."""
        ...

    def check_taught_thoroughly(self, stage: StageSpec) -> str | None:
        """Return what the stage's interpreter lacks for a teacher; may take seconds."""
        ...


def teacher_problems(spec: DistillSpec | None, original: str, registry: Registry) -> list[str]:
    """Return one line, `distill.teacher: what is wrong`, or none; a `spec` of None has none.

    Args:
        spec: the recipe's `distill`.
        original: the model that the recipe prunes.
        registry: the families that a teacher may be of.
    """
    if spec is None or spec.is_original:
        return []
    try:
        config = read_config(spec.teacher)
        find_family(registry, config)
        problem = _difference(spec.teacher, config, original)
    except PTLError as error:
        problem = str(error)
    return [f"distill.teacher: {problem}"] if problem else []


def untaught(spec: DistillSpec | None, backends: Sequence[str], registry: Registry) -> list[str]:
    """Return one line where a teacher has no stage that it could teach.

    Args:
        spec: the recipe's `distill`.
        backends: those of the recipe's stages.
        registry: where a backend that takes a teacher says so by `distils = True`.
    """
    if spec is None or any(_distils(name, registry) for name in backends):
        return []
    able = [name for name, _ in registry.backends.items() if _distils(name, registry)]
    allowed = ", ".join(able) or "none is installed"
    return [f"distill: no stage in 'recover' can have a teacher; backends that can: {allowed}"]


def taught_stage_problems(
    spec: DistillSpec | None, stages: Sequence[StageSpec], registry: Registry
) -> list[str]:
    """Return what is wrong with the stages of a recipe with a teacher; nothing is started.

    Args:
        spec: the recipe's `distill`.
        stages: the recipe's, each of a backend that is registered.
        registry: their backends.
    """
    problems = untaught(spec, [stage.backend for stage in stages], registry)
    if spec is None or not spec.is_on:
        return problems
    for index, stage in enumerate(stages):
        backend = registry.backends.get(stage.backend)
        found = backend.check_taught(stage) if isinstance(backend, TaughtBackend) else None
        problems += [f"recover.{index}.{line}" for line in (found or "").splitlines()]
    return problems


def untaught_interpreter(recipe: Recipe, stage: StageSpec, registry: Registry) -> str | None:
    """Return what a stage's interpreter lacks for the recipe's teacher, or None; it is asked."""
    taught = recipe.distill is not None and recipe.distill.is_on
    backend = registry.backends.get(stage.backend)
    if recipe.data is None or not taught or not isinstance(backend, TaughtBackend):
        return None  # in a framework's own door its interpreter has PTL: it reads the recipe
    return backend.check_taught_thoroughly(stage)


def _distils(name: str, registry: Registry) -> bool:
    return bool(getattr(registry.backends.get(name), "distils", False))


def _difference(teacher: str, config: Mapping[str, Any], original: str) -> str | None:
    """Return what the student's tokens would not mean to the teacher."""
    if config.get("quantization_config"):
        return (
            f"'{teacher}' is quantised; give a full-precision checkpoint, with a dtype if need be"
        )
    sizes = [keys.get("vocab_size") for keys in (config, read_config(original))]
    if sizes[0] != sizes[1]:
        return (
            f"'{teacher}' has a vocabulary of {sizes[0]}, the model one of {sizes[1]}; "
            "give a checkpoint of the same vocabulary"
        )
    tokens = [_tokens(model) for model in (teacher, original)]
    if tokens[0] is None and tokens[1] is not None:
        return f"'{teacher}' has no tokenizer to compare; copy {TOKENIZERS[0]} of the model to it"
    if tokens[0] != tokens[1]:
        return (
            f"'{teacher}' has another tokenizer than the model: the same number means another "
            "token; give a checkpoint with the model's tokenizer"
        )
    return None


def _tokens(model: str) -> object:
    """Return what tells which token each number is, or None where no file does."""
    folder = config_path(model).parent
    path = next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)
    if path is None:
        return None
    return _vocabulary(path) if path.suffix == ".json" else path.read_bytes()


def _vocabulary(path: Path) -> object:
    """Return the tokens of a `tokenizer.json`; how text is cut into them may differ."""
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
        added = {entry["id"]: entry["content"] for entry in keys.get("added_tokens", ())}
        return added, keys["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PTLError(f"{path}: cannot be read as a tokenizer ({error!r})") from error
