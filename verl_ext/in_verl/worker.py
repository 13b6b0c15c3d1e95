"""verl's actor worker, whose live and sharded model can be profiled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker

from verl_ext.in_verl.activations import Activations


class ProfilingWorker(ActorRolloutRefWorker):
    """Adds one method that every rank takes part in."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def ptl_profile(self, sequences: Sequence[Sequence[int]], out: str) -> None:
        """Write the activations of every FFN neuron over `sequences` to `out`, in rank 0.

        Each rank reads its share. A forward pass of sharded weights is a collective, so that
        ranks with a smaller share read sequences whose tokens do not count.

        Args:
            sequences: token ids, at least one.
            out: a safetensors file.
        """
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        engine = self.actor.engine
        name = get_device_name()
        device = torch.device(name if name == "cpu" else get_device_id())
        with Activations(engine.module) as activations, engine.eval_mode(), torch.no_grad():
            for first in range(0, len(sequences), ranks):
                counts = first + rank < len(sequences)
                ids = torch.tensor([list(sequences[first + rank if counts else 0])], device=device)
                activations.counting = counts
                mask = torch.ones_like(ids)
                # of the logits one alone: all of them are gigabytes with a large vocabulary
                engine.module(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        activations.reduce()
        if rank == 0:
            activations.save(out)
