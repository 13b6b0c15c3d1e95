"""No tensor parallelism: every rank is a group of its own."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch.distributed as dist


def get_tensor_model_parallel_world_size():
    return 1


def get_tensor_model_parallel_rank():
    return 0


@functools.cache
def get_tensor_model_parallel_group():
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    return SimpleNamespace(device_group=groups[dist.get_rank()])
