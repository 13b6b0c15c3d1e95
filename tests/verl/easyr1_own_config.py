"""A program: EasyR1's own `PPOConfig` reads a yaml; prints what it makes of it as JSON.

Arguments: the clone, the yaml. vLLM and qwen_vl_utils need not be there: what EasyR1 imports of
them is made up.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types


class MadeUp(types.ModuleType):
    __path__: tuple[str, ...] = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vllm", "qwen_vl_utils"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return MadeUp(spec.name)

    def exec_module(self, module):
        pass


if __name__ == "__main__":
    home, path = sys.argv[1:]
    sys.path.insert(0, home)
    sys.meta_path.append(Finder())  # last: what is installed is taken
    from omegaconf import OmegaConf
    from verl.trainer.config import PPOConfig

    merged = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(path))
    config = OmegaConf.to_object(merged)
    config.deep_post_init()
    print(json.dumps(config.to_dict(), default=str))
