"""Does something once a module of verl is imported, and not a moment before.

verl keeps its trainers and its rollouts in tables of modules that take long to import, so that
the plugin, which every process loads, must not import them; the processes that do import them
get PTL's names right after.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Action = Callable[[], object]


def when_imported(name: str, action: Action) -> None:
    """Call `action` after the module is executed, or now if it is; again asked, not again.

    Args:
        name: the module's full name.
        action: must be idempotent where modules are executed anew.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        action()
    elif not any(isinstance(each, _Finder) and each.name == name for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module where Python would."""

    def __init__(self, name: str, action: Action) -> None:
        self.name = name
        self._action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._action)
        return spec


class _Loader(importlib.abc.Loader):
    """Acts once the inner loader executed the module."""

    def __init__(self, inner: importlib.abc.Loader, action: Action) -> None:
        self._inner = inner
        self._action = action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._action()

    def __getattr__(self, name: str) -> object:  # get_source, get_filename, ...
        return getattr(self._inner, name)
