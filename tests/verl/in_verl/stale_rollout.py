"""Registers the rollout `hf_stale`; verl loads this module in each of its processes."""

from __future__ import annotations

from typing import Any

from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplicaRegistry


def load_replica() -> Any:
    from verl_ext.in_verl.hf_adapter import HfReplica

    return HfReplica


base._ROLLOUT_REGISTRY[("hf_stale", "async")] = "stale_adapter.StaleAdapter"
RolloutReplicaRegistry.register("hf_stale", load_replica)
