"""Facts that make a run's numbers believable: versions, plugins, seed, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import ptl_plugins
from ptl_plugins.source_commit import source_commit
from ptl_plugins.types import Recipe

if TYPE_CHECKING:
    from ptl_plugins.manager import PTLPluginManager

DISTRIBUTIONS = (
    "torch", "transformers", "safetensors", "accelerate", "datasets",
    "llamafactory", "deepspeed", "verl", "vllm",
)  # fmt: skip


def build_manifest(recipe: Recipe, manager: PTLPluginManager, *, num_ranks: int) -> dict[str, Any]:
    """Return the manifest's facts, the resolved recipe excepted."""
    return {
        "recipe_file": str(recipe.source),
        "recipe_text": recipe.text,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": recipe.seed,
        "num_ranks": num_ranks,
        "git_commit": source_commit(),
        "versions": versions(),
        "plugins": plugins(manager),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, PTL and the frameworks that are installed."""
    found = {"python": platform.python_version(), "ptl": ptl_plugins.__version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plugins(manager: PTLPluginManager) -> list[str]:
    """Return the names of the registered plugins."""
    return sorted(str(name) for name, plugin in manager.list_name_plugin() if plugin is not None)


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and accelerators of this machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": _accelerators(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    torch = sys.modules.get("torch")  # never imported for this alone
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
