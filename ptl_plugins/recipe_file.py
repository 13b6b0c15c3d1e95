"""A recipe file of either door becomes a `Recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.registry import Registry
from ptl_plugins.types import Recipe
from ptl_plugins.yaml_file import read_yaml

if TYPE_CHECKING:
    from ptl_plugins.hookspecs import Hooks


def read_recipe(
    path: Path,
    hooks: Hooks,
    registry: Registry,
    *,
    thorough: bool = True,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Read and check a recipe file; `overrides` are words such as `schedule.0.amount=5`.

    Raises:
        RecipeError: the file is wrong; one line per problem.
    """
    keys, text = read_yaml(path)
    for word in overrides:
        override(keys, word)
    source = RecipeSource(path=path, keys=keys, text=text, registry=registry, thorough=thorough)
    recipe: Recipe | None = hooks.ptl_read_recipe(source=source)
    if recipe is None:
        raise RecipeError(
            f"{path}: ptl: is missing; a LLaMA-Factory yaml needs a 'ptl:' section, and no "
            "plugin reads another kind of file"
        )
    return recipe


def override(keys: dict[str, Any], word: str) -> None:
    """Set one key of a parsed recipe, `a.0.b=value`; the value is read as YAML.

    Raises:
        RecipeError: the word is no `key=value`, or the recipe has no such place.
    """
    dotted, equals, text = word.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {word}: is not KEY=VALUE, such as schedule.0.amount=500")
    *path, last = dotted.split(".")
    place: Any = keys
    for part in path:
        place = _inside(place, part, word)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {word}: the value is not YAML") from error
    if isinstance(place, list):
        _inside(place, last, word)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise RecipeError(f"--set {word}: there is no key '{last}' in a plain value")


def _inside(place: Any, part: str, word: str) -> Any:
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            raise RecipeError(f"--set {word}: '{part}' is not one of {len(place)} entries, from 0")
        return place[int(part)]
    if isinstance(place, dict):
        return place.setdefault(part, {})
    raise RecipeError(f"--set {word}: there is no key '{part}' in a plain value")
