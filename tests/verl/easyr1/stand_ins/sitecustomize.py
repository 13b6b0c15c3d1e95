"""Makes EasyR1 run without a GPU: every Python process that has this folder on PYTHONPATH.

EasyR1 says "cuda" and "nccl" in many places. What it imports is patched right after, in the
processes of its ranks; Ray counts as many GPUs as `STAND_IN_GPUS` says.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys


def patch_ray():
    """In the process that starts Ray."""
    import functools

    import ray

    ray.init = functools.partial(
        ray.init,
        num_cpus=8,
        num_gpus=int(os.environ["STAND_IN_GPUS"]),
        include_dashboard=False,
        object_store_memory=100_000_000,
    )


def patch_workers():
    """In the processes of the ranks."""
    import stand_in_cuda

    stand_in_cuda.patch()


ACTIONS = {"verl.trainer.main": patch_ray, "verl.workers.fsdp_workers": patch_workers}


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `ACTIONS` where Python would."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in ACTIONS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            execute, action = spec.loader.exec_module, ACTIONS[fullname]
            spec.loader.exec_module = lambda module: (execute(module), action())
        return spec


if "STAND_IN_GPUS" in os.environ:
    sys.meta_path.insert(0, Finder())
