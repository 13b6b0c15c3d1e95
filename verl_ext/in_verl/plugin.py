"""What verl loads in each of its processes; it only adds names and imports nothing heavy.

verl finds it by the entry point `verl.plugins`, or by VERL_USE_EXTERNAL_MODULES where PTL is not
installed; both at once load it once. verl hides an error of an entry point: `check` looks.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from verl.plugin.platform import PlatformRegistry

from verl_ext.in_verl.cpu_platform import CpuPlatform
from verl_ext.in_verl.late_import import when_imported

ROLLOUT = "hf_cpu"
ADAPTER = "verl_ext.in_verl.hf_adapter.HfAdapter"
TRAINER = "verl_ext.in_verl.trainer"
ASKED = "VERL_USE_EXTERNAL_MODULES"
"""The variable by which a stage of PTL asks for this module."""


def register() -> None:
    """Add the platform `cpu`, the rollout `hf_cpu` and the trainer `ptl_sync`."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    when_imported("verl.trainer.ppo.v1", lambda: importlib.import_module(TRAINER))
    when_imported("verl.workers.rollout.base", _register_adapter)
    when_imported("verl.workers.rollout.replica", _register_replica)
    if __name__ in os.environ.get(ASKED, ""):
        when_imported("accelerate", _patch_accelerate)
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from verl_ext.in_verl import cpu_patches

        cpu_patches.apply()


def _patch_accelerate() -> None:
    from verl_ext.in_verl import accelerate_patch

    accelerate_patch.apply()


def _register_adapter() -> None:
    from verl.workers.rollout import base

    base._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = ADAPTER


def _register_replica() -> None:
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    RolloutReplicaRegistry.register(ROLLOUT, _load_replica)


def _load_replica() -> Any:
    from verl_ext.in_verl.hf_adapter import HfReplica

    return HfReplica


register()
