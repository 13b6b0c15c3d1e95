"""A recipe file of either door becomes a `Recipe`."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ptl_plugins.errors import PluginError, PTLError, RecipeError
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.registry import Registry
from ptl_plugins.types import Recipe
from ptl_plugins.yaml_file import read_yaml
from ptl_plugins.yaml_loader import BoundedLoader

if TYPE_CHECKING:
    import pluggy

    from ptl_plugins.hookspecs import Hooks

OWN_PACKAGES = ("ptl_plugins", "llamafactory_ext", "verl_ext")


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
    recipe = ask_for_recipe(hooks, source)
    if recipe is None:
        raise RecipeError(
            f"{path}: ptl: is missing; a LLaMA-Factory yaml needs a 'ptl:' section, and no "
            "plugin reads another kind of file"
        )
    return recipe


def ask_for_recipe(hooks: Hooks, source: RecipeSource) -> Recipe | None:
    """Return what the first plugin makes of the file that can read it.

    Raises:
        PluginError: a plugin from elsewhere failed, or answered with something else.
        RecipeError: the file is wrong.
    """
    try:
        recipe = hooks.ptl_read_recipe(source=source)
    except PTLError:
        raise
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
        if name := _of_another(hooks, error):
            raise PluginError(_failed(name, " ".join(wrong.split()))) from error
        raise
    if recipe is None or isinstance(recipe, Recipe):
        return recipe
    others = ", ".join(each.plugin_name for each in _others(hooks))
    raise PluginError(_failed(others, f"is a {type(recipe).__name__}, not a ptl_plugins Recipe"))


def _failed(name: str, wrong: str) -> str:
    return (
        f"plugin '{name}': ptl_read_recipe: {wrong}; mend the plugin, or leave it out with "
        f"-p no:{name}"
    )


def _others(hooks: Hooks) -> list[pluggy.HookImpl]:
    """Return the implementations that are none of PTL's own packages."""
    found = hooks.ptl_read_recipe.get_hookimpls()
    return [each for each in found if each.function.__module__.split(".")[0] not in OWN_PACKAGES]


def _of_another(hooks: Hooks, error: Exception) -> str | None:
    """Return the plugin from elsewhere in which the error was raised; our own show a traceback."""
    codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return next(
        (each.plugin_name for each in _others(hooks) if each.function.__code__ in codes), None
    )


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
        value = yaml.load(text, Loader=BoundedLoader)  # a SafeLoader
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
