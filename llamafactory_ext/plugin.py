"""The plugin `llamafactory`: reads LLaMA-Factory yamls, and recovers in `ptl run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptl_plugins import hookimpl

if TYPE_CHECKING:
    from ptl_plugins.recipe import RecipeSource
    from ptl_plugins.registry import Registry
    from ptl_plugins.types import Recipe


@hookimpl
def ptl_read_recipe(source: RecipeSource) -> Recipe | None:
    """Read a LLaMA-Factory yaml with a `ptl:` section."""
    if "ptl" not in source.keys:
        return None
    from llamafactory_ext.recipe import read_llamafactory_recipe

    return read_llamafactory_recipe(source)


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the backend of `ptl run`."""
    from llamafactory_ext.backend import LlamaFactory

    registry.backends.add("llamafactory", LlamaFactory())
