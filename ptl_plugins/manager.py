"""Builds the plugin manager: block, built-ins, entry points, `-p` plugins, checks."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Sequence

import pluggy

from ptl_plugins import (
    builtin,
    checkpoint_steps,
    hookspecs,
    local_launch,
    run_recipe,
    steps,
)
from ptl_plugins.errors import PluginError
from ptl_plugins.markers import PROJECT
from ptl_plugins.registry import Registry

HOOK_PREFIX = "ptl_"
ANNOUNCEMENTS = ("ptl_register", "ptl_round_finished", "ptl_run_finished")
"""Hooks whose implementations are called one by one."""
PLUGINS_VARIABLE = "PTL_PLUGINS"
"""Environment variable with values of `-p`, comma-separated, for programs without that option."""


class PTLPluginManager(pluggy.PluginManager):
    """A manager that refuses what pluggy passes over in silence."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the marker of `plugin.name`; an unmarked callable named `ptl_*` is an error."""
        if not name.startswith(HOOK_PREFIX):
            return None  # never touch properties and lazy attributes of a plugin
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and callable(getattr(plugin, name)):
            raise PluginError(f"{plugin!r}: {name} lacks @hookimpl (from ptl_plugins)")
        if name in ANNOUNCEMENTS and options and (options["wrapper"] or options["hookwrapper"]):
            raise PluginError(
                f"{plugin!r}: {name} cannot be wrapped: each implementation is called by itself, "
                "so that the failure of one loses nothing; implement it without wrapper=True"
            )
        return options

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register `plugin`; an argument that the hook's spec lacks is an error of its author."""
        try:
            return super().register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"plugin '{name}': {' '.join(str(error).split())}") from error


def build_manager(*, plugins: Sequence[str] = (), autoload: bool = True) -> PTLPluginManager:
    """Return a new manager with every plugin registered.

    Args:
        plugins: values of `-p`: a module to import, or `no:NAME` to keep a plugin out.
        autoload: whether the entry points of group `ptl` and the plugins that the environment
            variable PTL_PLUGINS names are loaded.

    Raises:
        PluginError: a plugin cannot be imported or has a hook that PTL does not know.
    """
    manager = PTLPluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    if autoload:
        plugins = [*filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(",")), *plugins]
    for name in (value.removeprefix("no:") for value in plugins if value.startswith("no:")):
        manager.set_blocked(name)
    manager.register(steps, "steps")
    manager.register(checkpoint_steps, "checkpoint_steps")
    manager.register(local_launch, "local")
    manager.register(run_recipe, "run_recipe")
    manager.register(builtin, "builtin")
    if autoload:
        _load_entry_points(manager)
    for name in (value for value in plugins if not value.startswith("no:")):
        manager.register(_import(name), name)
    _check_pending(manager)
    return manager


def build_registry(manager: PTLPluginManager) -> Registry:
    """Return the catalogues that all plugins filled, frozen."""
    registry = Registry()
    for implementation in reversed(manager.hook.ptl_register.get_hookimpls()):
        registry.registering(implementation.plugin_name)
        implementation.function(registry=registry)
    registry.freeze()
    return registry


def _load_entry_points(manager: PTLPluginManager) -> None:
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points:
            taken = manager.is_blocked(entry.name) or manager.has_plugin(entry.name)
            if entry.group != PROJECT or taken:
                continue
            source = f"{distribution.metadata['Name']} {distribution.version}"
            manager.register(_load(entry, source), entry.name)


def _load(entry: importlib.metadata.EntryPoint, source: str) -> object:
    try:
        return entry.load()
    except Exception as error:
        raise PluginError(
            f"plugin '{entry.name}' ({source}) failed to import: {type(error).__name__}: {error}; "
            f"switch it off with -p no:{entry.name}, or {PLUGINS_VARIABLE}=no:{entry.name} in the "
            "environment"
        ) from error


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise PluginError(f"-p {name}: no module named '{error.name}'") from error


def _check_pending(manager: PTLPluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"unknown hook: {error}") from error


def describe_plugins(manager: PTLPluginManager) -> list[tuple[str, str]]:
    """Return each plugin's name and its distribution, module or `blocked`."""
    sources: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points:
            if entry.group == PROJECT:
                source = f"{distribution.metadata['Name']} {distribution.version} ({entry.value})"
                if entry.name in sources and sources[entry.name] != source:
                    source = f"{sources[entry.name]}; also claimed by {source}"
                sources[entry.name] = source
    rows = []
    for name, plugin in manager.list_name_plugin():
        module = getattr(plugin, "__name__", type(plugin).__name__)
        rows.append((name, "blocked" if plugin is None else sources.get(name, module)))
    return sorted(rows)
