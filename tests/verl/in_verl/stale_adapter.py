"""The rollout `hf_stale`: `hf_cpu` that never gets the trained weights."""

from __future__ import annotations

from typing import Any

import ray

from verl_ext.in_verl.hf_adapter import HfAdapter, server_name


class StaleAdapter(HfAdapter):
    """Takes the weights as every rank has to, and sends the step alone."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.sends = False

    async def update_weights(self, weights: Any, global_steps: int | None = None, **keys: Any):
        await super().update_weights(weights, global_steps=global_steps, **keys)
        server = ray.get_actor(server_name(self.replica_rank))
        await server.set_global_steps.remote(global_steps)
