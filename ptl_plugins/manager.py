"""Builds the plugin manager: block, built-ins, entry points, `-p` plugins, checks."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Sequence

import pluggy

from ptl_plugins import (
    __version__,
    builtin,
    checkpoint_steps,
    hookspecs,
    local_launch,
    run_recipe,
    slurm_launch,
    steps,
)
from ptl_plugins.component_check import wrong_components
from ptl_plugins.errors import PluginError, PTLError, did_you_mean
from ptl_plugins.markers import PROJECT
from ptl_plugins.registry import Registry
from ptl_plugins.slicegpt import plugin as slicegpt_plugin

HOOK_PREFIX = "ptl_"
ANNOUNCEMENTS = ("ptl_register", "ptl_round_finished", "ptl_run_finished")
"""Hooks whose implementations are called one by one."""
PLUGINS_VARIABLE = "PTL_PLUGINS"
"""Environment variable with values of `-p`, comma-separated, for programs without that option."""


class PTLPluginManager(pluggy.PluginManager):
    """A manager that refuses what pluggy passes over in silence."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self.distributions: dict[str, str] = {}
        """Name and version by plugin, of those that an entry point names."""

    def refusal(self, name: str, wrong: str) -> PluginError:
        """Return the error of plugin `name`: whose it is, what is wrong, how to switch it off."""
        source = self.distributions.get(name)
        return PluginError(
            f"plugin '{name}'{f' ({source})' if source else ''}: {' '.join(wrong.split())}; "
            f"switch it off with -p no:{name}, or {PLUGINS_VARIABLE}=no:{name} in the environment"
        )

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the marker of `plugin.name`; an unmarked callable named `ptl_*` is an error."""
        if not name.startswith(HOOK_PREFIX):
            return None  # never touch properties and lazy attributes of a plugin
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and callable(getattr(plugin, name)):
            wrong = f"{name} lacks @hookimpl (from ptl_plugins)"
            raise pluggy.PluginValidationError(plugin, wrong)
        if name in ANNOUNCEMENTS and options and (options["wrapper"] or options["hookwrapper"]):
            wrong = (
                f"{name} cannot be wrapped: each implementation is called by itself, so that the "
                "failure of one loses nothing; implement it without wrapper=True"
            )
            raise pluggy.PluginValidationError(plugin, wrong)
        return options

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register `plugin`; what is wrong with its hooks is an error that names it."""
        try:
            return super().register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise self.refusal(name or self.get_canonical_name(plugin), str(error)) from error
        except ValueError as error:
            known = name if name and self.has_plugin(name) else self.get_name(plugin)
            source = self.distributions.get(known or "", "-p")
            raise PluginError(
                f"plugin '{name}' is loaded already, as '{known}' (by {source}); name it once"
            ) from error

    def check_pending(self) -> None:
        """Refuse a hook that PTL does not have, unless it is marked `optionalhook=True`."""
        for hook in vars(self.hook).values():
            for implementation in () if hook.has_spec() else hook.get_hookimpls():
                if not implementation.optionalhook:
                    raise self.refusal(implementation.plugin_name, _unknown(hook.name))


def build_manager(*, plugins: Sequence[str] = (), autoload: bool = True) -> PTLPluginManager:
    """Return a new manager with every plugin registered.

    Args:
        plugins: values of `-p`: a module to import, or `no:NAME` to keep a plugin out.
        autoload: whether the entry points of group `ptl` and the plugins that the environment
            variable PTL_PLUGINS names are loaded.

    Raises:
        PluginError: a plugin cannot be imported, or has a hook or an argument that PTL does not
            know; the text names the plugin, its distribution and how to switch it off.
    """
    manager = PTLPluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    if unnamed := [value for value in plugins if not value.removeprefix("no:")]:
        raise PluginError(f"-p '{unnamed[0]}': names no plugin; give a module, or no:NAME")
    if autoload:
        plugins = [*filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(",")), *plugins]
    for name in (value.removeprefix("no:") for value in plugins if value.startswith("no:")):
        manager.set_blocked(name)
    manager.register(steps, "steps")
    manager.register(checkpoint_steps, "checkpoint_steps")
    manager.register(local_launch, "local")
    manager.register(slurm_launch, "slurm")
    manager.register(run_recipe, "run_recipe")
    manager.register(builtin, "builtin")
    manager.register(slicegpt_plugin, "slicegpt")
    if autoload:
        _load_entry_points(manager)
    for name in (value for value in plugins if not value.startswith("no:")):
        manager.register(_import(name), name)
    manager.check_pending()
    return manager


def build_registry(manager: PTLPluginManager) -> Registry:
    """Return the catalogues that all plugins filled, frozen."""
    registry = Registry()
    for implementation in reversed(manager.hook.ptl_register.get_hookimpls()):
        registry.registering(implementation.plugin_name)
        try:
            implementation.function(registry=registry)
        except PTLError:
            raise  # names both plugins already
        except Exception as error:
            wrong = f"ptl_register failed: {type(error).__name__}: {error}"
            raise manager.refusal(implementation.plugin_name, wrong) from error
    for name, wrong in wrong_components(registry):
        raise manager.refusal(name, wrong)
    registry.freeze()
    return registry


def _load_entry_points(manager: PTLPluginManager) -> None:
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points:
            taken = manager.is_blocked(entry.name) or manager.has_plugin(entry.name)
            if entry.group != PROJECT or taken:
                continue
            source = f"{distribution.metadata['Name']} {distribution.version}"
            manager.distributions[entry.name] = source
            manager.register(_load(entry, manager), entry.name)


def _load(entry: importlib.metadata.EntryPoint, manager: PTLPluginManager) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        wrong = f"failed to import: {type(error).__name__}: {error}"
        raise manager.refusal(entry.name, wrong) from error


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise PluginError(f"-p {name}: no module named '{error.name}'") from error
    except (Exception, SystemExit) as error:
        wrong = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"-p {name}: failed to import: {wrong}") from error


def _unknown(hook: str) -> str:
    known = [name for name in vars(hookspecs) if name.startswith(HOOK_PREFIX)]
    return (
        f"unknown hook: PTL {__version__} has no {hook}{did_you_mean(hook, known)}; "
        "it is misspelt, or the plugin is for another version of PTL"
    )


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
