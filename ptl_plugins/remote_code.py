"""Tells which parts of a recipe let code of a checkpoint run: `trust_remote_code`.

PTL itself never runs it, and never sets the key; a recipe may, and then it is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ptl_plugins.dotted_keys import dotted
from ptl_plugins.types import Recipe

KEY = "trust_remote_code"


def remote_code_notes(recipe: Recipe) -> list[str]:
    """Return one line for each place of the recipe that switches remote code on."""
    own_door = recipe.data is None
    places = [
        (f"{'' if own_door else f'recover.{index}.settings.'}{key}", value)
        for index, stage in enumerate(recipe.stages)
        for key, value in _switches(stage.settings)
    ]
    for index, task in enumerate(recipe.evaluation.tasks):
        start = f"{'ptl.' if own_door else ''}evaluate.tasks.{index}."
        places += [(start + key, value) for key, value in _switches(task.settings)]
    return [
        f"{recipe.source}: {place}: {json.dumps(value, default=str)}: Python code that lies in the "
        "checkpoint will be run"
        for place, value in places
    ]


def _switches(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every switch that is on, at any depth."""
    for key, plain in dotted(value):
        if key.rpartition(".")[2].lstrip("+") == KEY and _is_on(plain):
            yield key, plain


def _is_on(value: Any) -> bool:
    return value not in (None, False, 0, "") and str(value).lower() not in ("false", "no", "off")
