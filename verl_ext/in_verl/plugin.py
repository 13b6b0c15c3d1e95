"""What verl loads in each of its processes; it only adds names and imports nothing heavy.

verl finds it by the entry point `verl.plugins`, or by VERL_USE_EXTERNAL_MODULES where PTL is not
installed; both at once load it once. verl hides an error of an entry point: `check` looks.
"""

from __future__ import annotations

import os
from typing import Any

from verl.plugin.platform import PlatformRegistry

from verl_ext.in_verl.cpu_platform import CpuPlatform
from verl_ext.in_verl.trainer_name import announce_trainer

ROLLOUT = "hf_cpu"
ADAPTER = "verl_ext.in_verl.hf_adapter.HfAdapter"


def register() -> None:
    """Add the platform `cpu`, the rollout `hf_cpu` and the trainer `ptl_sync`."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    announce_trainer()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from verl_ext.in_verl import cpu_patches

        cpu_patches.apply()
    _register_rollout()


def _register_rollout() -> None:
    from verl.workers.rollout import base
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    base._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = ADAPTER
    RolloutReplicaRegistry.register(ROLLOUT, _load_replica)


def _load_replica() -> Any:
    from verl_ext.in_verl.hf_adapter import HfReplica

    return HfReplica


register()
