"""Named components: one catalogue per kind, filled once by `ptl_register`, then frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from ptl_plugins.errors import PluginError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from ptl_plugins.components import Criterion, DataSource, Evaluator, Selector
    from ptl_plugins.families import Family
    from ptl_plugins.stage_types import Backend, Launcher


T = TypeVar("T")


class Catalogue(Generic[T]):
    """Components of one kind by open string names; a duplicate is an error, names suggest."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._registrant = "unknown"
        self._frozen = False

    def add(self, name: str, component: T) -> None:
        """Register `component` under `name`.

        Raises:
            PluginError: the name is taken (both origins are named) or none, or the catalogue is
                frozen.
        """
        origin = self._registrant
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise PluginError(f"{self.kind} {name!r}, of '{origin}', is no name; give it words")
        if self._frozen:
            raise PluginError(f"{self.kind} '{name}' comes too late: register it in ptl_register")
        if name in self._entries:
            raise PluginError(
                f"{self.kind} '{name}' is registered twice: by '{self._origins[name]}' and "
                f"'{origin}'; rename one, or switch a plugin off with -p no:NAME"
            )
        self._entries[name] = component
        self._origins[name] = origin

    def get(self, name: str) -> T:
        """Return the component called `name`.

        Raises:
            UnknownNameError: nothing has that name; the message lists what exists.
        """
        if name not in self._entries:
            raise UnknownNameError(
                f"unknown {self.kind} '{name}'{did_you_mean(name, self._entries)}; "
                f"available: {', '.join(self.names()) or 'none'}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over (name, component), sorted by name."""
        return ((name, self._entries[name]) for name in self.names())

    def origin(self, name: str) -> str:
        """Return the plugin that registered `name`."""
        return self._origins[name]

    def registering(self, plugin: str) -> None:
        """Note which plugin the coming registrations are of."""
        self._registrant = plugin

    def freeze(self) -> None:
        """Refuse further registrations."""
        self._frozen = True


class Registry:
    """All catalogues; the argument of `ptl_register`."""

    def __init__(self) -> None:
        self.families: Catalogue[Family] = Catalogue("family")
        self.criteria: Catalogue[Criterion] = Catalogue("criterion")
        self.selectors: Catalogue[Selector] = Catalogue("selector")
        self.backends: Catalogue[Backend] = Catalogue("backend")
        self.launchers: Catalogue[Launcher] = Catalogue("launcher")
        self.evaluators: Catalogue[Evaluator] = Catalogue("evaluator")
        self.data: Catalogue[DataSource] = Catalogue("data source")

    def catalogues(self) -> dict[str, Catalogue[object]]:
        """Return the catalogues by the plural names that `ptl ls` takes."""
        return dict(vars(self))

    def registering(self, plugin: str) -> None:
        """Note which plugin the coming registrations are of, in every catalogue."""
        for catalogue in self.catalogues().values():
            catalogue.registering(plugin)

    def freeze(self) -> None:
        """Freeze every catalogue."""
        for catalogue in self.catalogues().values():
            catalogue.freeze()
