"""How PTL enters `llamafactory-cli`: an entry point that torch calls at the end of its import.

It only installs an import hook, for two modules of LLaMA-Factory, and does nothing else: it
must be cheap, it must never raise (that would break `import torch` for every program), and
standard library is all it imports. When one of the modules loads, `llamafactory_ext.patches`
wraps one function of it, which looks for a `ptl:` section each time it is called.

Off: `TORCH_DEVICE_BACKEND_AUTOLOAD=0` (torch's own switch) or `PTL_AUTOLOAD=0`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

# The launcher runs in the process of the command line, where mistakes are reported before any
# worker starts; the parser runs in every process that trains, and always loads after torch.
TARGETS = ("llamafactory.launcher", "llamafactory.hparams.parser")


def install() -> None:
    """Install the import hook once; entry point of group `torch.backends`."""
    try:
        if os.environ.get("PTL_AUTOLOAD", "1") == "0":
            return
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
        for name in TARGETS:
            module = sys.modules.get(name)
            if module is not None and _is_loaded(module):
                _patch(module)
    except Exception as error:  # an exception here would break `import torch` for everyone
        print(f"PTL: autoload failed, LLaMA-Factory runs without it: {error!r}", file=sys.stderr)


def _is_loaded(module: ModuleType) -> bool:
    return not getattr(module.__spec__, "_initializing", False)


def _patch(module: ModuleType) -> None:
    from llamafactory_ext import patches

    patches.apply(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the target modules where Python would, and patches them after they ran."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in TARGETS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """A loader that patches what the inner one executed."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        try:
            _patch(module)
        except Exception as error:  # LLaMA-Factory without a ptl: section must go on working
            print(f"PTL: cannot enter {module.__name__}: {error!r}", file=sys.stderr)

    def __getattr__(self, name: str) -> object:  # get_source, get_filename, ...
        return getattr(self._inner, name)
