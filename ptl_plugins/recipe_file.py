"""A recipe file of either door becomes a `Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ptl_plugins.errors import RecipeError
from ptl_plugins.recipe import RecipeSource
from ptl_plugins.registry import Registry
from ptl_plugins.types import Recipe
from ptl_plugins.yaml_file import read_yaml

if TYPE_CHECKING:
    from ptl_plugins.hookspecs import Hooks


def read_recipe(path: Path, hooks: Hooks, registry: Registry, *, thorough: bool = True) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeError: the file is wrong; one line per problem.
    """
    keys, text = read_yaml(path)
    source = RecipeSource(path=path, keys=keys, text=text, registry=registry, thorough=thorough)
    recipe: Recipe | None = hooks.ptl_read_recipe(source=source)
    if recipe is None:
        raise RecipeError(
            f"{path}: ptl: is missing; a LLaMA-Factory yaml needs a 'ptl:' section, and no "
            "plugin reads another kind of file"
        )
    return recipe
