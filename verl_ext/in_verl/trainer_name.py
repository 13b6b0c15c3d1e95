"""Makes `trainer.v1.trainer_mode=ptl_sync` known to verl.

verl keeps its trainers in a table of a module that takes seconds to import, so that this plugin,
which every process loads, must not import it; the one process that does import it gets the
trainer right after.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TRAINERS = "verl.trainer.ppo.v1"
OURS = "verl_ext.in_verl.trainer"


def announce_trainer() -> None:
    """Import PTL's trainer when verl's are imported, or now if they are."""
    module = sys.modules.get(TRAINERS)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        importlib.import_module(OURS)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds verl's trainers where Python would."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != TRAINERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Imports PTL's trainer once the inner loader executed the package."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        importlib.import_module(OURS)

    def __getattr__(self, name: str) -> object:  # get_source, get_filename, ...
        return getattr(self._inner, name)
