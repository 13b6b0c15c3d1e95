"""What of torch and of EasyR1's worker means a GPU, on the CPU."""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist

CUDA = {
    "get_device_name": lambda *_: "cpu",
    "current_device": lambda: torch.device("cpu"),
    "mem_get_info": lambda *_: (0, 0),
    "max_memory_allocated": lambda *_: 0,
    "max_memory_reserved": lambda *_: 0,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda state, *_: torch.set_rng_state(state),
    "manual_seed": torch.manual_seed,
    "empty_cache": lambda: None,
}


def patch():
    """Patch this process; EasyR1's module of the worker is imported already."""
    import verl.workers.fsdp_workers as workers
    from tensordict import TensorDict

    for name, function in CUDA.items():
        setattr(torch.cuda, name, function)
    dist.init_process_group = functools.partial(_init, dist.init_process_group)
    workers.init_device_mesh = functools.partial(_mesh, workers.init_device_mesh)
    workers.get_init_fn = functools.partial(_init_fn, workers.get_init_fn)
    workers.AutoModelForCausalLM = type(
        "OnCpu", (), {"from_pretrained": _from_pretrained, "from_config": _from_config}
    )
    TensorDict.cuda = lambda self, device=None: self


def _init(init, backend=None, **keys):
    return init(backend="gloo", **keys)


def _mesh(mesh, device, **keys):
    return mesh("cpu", **keys)


def _init_fn(init_fn, model, device):
    return init_fn(model, device="cpu")


def _from_pretrained(*words, **keys):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(*words, **_on_cpu(keys))


def _from_config(*words, **keys):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(*words, **_on_cpu(keys))


def _on_cpu(keys):
    kept = {name: value for name, value in keys.items() if name != "device_map"}
    return {**kept, "attn_implementation": "eager"}
