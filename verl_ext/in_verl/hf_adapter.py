"""The rollout `hf_cpu` in verl's two places: the replica starts a server, the adapter feeds it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

from verl_ext.in_verl.hf_server import HfServer

Weights = Iterable[tuple[str, torch.Tensor]] | AsyncIterable[tuple[str, torch.Tensor]]


def server_name(replica_rank: int) -> str:
    """Return the name by which the training processes find a replica's server in Ray."""
    return f"ptl_hf_cpu_{replica_rank}"


class HfReplica(RolloutReplica):
    """One server: a Ray actor with the whole model."""

    async def launch_servers(self) -> None:
        """Start the server and wait until the model is loaded."""
        actor = ray.remote(HfServer).options(
            name=server_name(self.replica_rank),
            num_cpus=0,
            max_concurrency=self.max_concurrency,
        )
        server = actor.remote(
            path=self.model_config.path, config=self.config, replica_rank=self.replica_rank
        )
        self._server_address = await server.ready.remote()
        self._server_handle = server
        self.servers = [server]


class HfAdapter(BaseRollout):
    """Lives in each training process; sends the trained weights to the server."""

    def __init__(
        self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        rank, size = int(os.environ["RANK"]), self.config.tensor_model_parallel_size
        self.sends = rank % size == 0
        """Whether it is this process that talks to the replica's server."""
        self.replica_rank = rank // size if replica_rank == -1 else replica_rank

    async def resume(self, tags: list[str]) -> None:
        """Do nothing: no memory was given back."""

    async def release(self) -> None:
        """Do nothing: a CPU's memory is not short of that kind."""

    async def update_weights(
        self,
        weights: Weights,
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **more: Any,
    ) -> None:
        """Send all weights; every rank has to go through them, as each is gathered from all.

        Raises:
            NotImplementedError: verl sends differences instead of weights.
        """
        if wire_format != "named_tensors":
            raise NotImplementedError(f"hf_cpu takes whole weights, not '{wire_format}'")
        named = [(name, tensor.detach().cpu().clone()) async for name, tensor in _each(weights)]
        if self.sends:
            server = ray.get_actor(server_name(self.replica_rank))
            await server.update_weights.remote(named, global_steps)


async def _each(weights: Weights) -> Any:
    if isinstance(weights, AsyncIterable):
        async for pair in weights:
            yield pair
    else:
        for pair in weights:
            yield pair
