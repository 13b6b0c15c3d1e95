"""A program: real ranks of FSDP, over gloo, that save a tiny model as EasyR1 does.

FOLDER gets one actor folder per name, and `whole.pt`, the state that was cut. Further arguments:
the names wanted. It needs torch and transformers alone, so that EasyR1's own can run it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.multiprocessing import start_processes
from transformers import AutoConfig, AutoModelForCausalLM

KEYS = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "tie_word_embeddings": True,
}
"""Six rows of keys: of four ranks the last has none of them."""
RANKS = {
    "fsdp2_of_2": (2,),
    "fsdp2_of_3": (3,),
    "fsdp2_of_4": (4,),
    "fsdp2_of_2x2": (2, 2),
    "fsdp1_of_1": (1,),
    "fsdp1_of_3": (3,),
    "fsdp1_of_4": (4,),
    "fsdp1_of_2x2": (2, 2),
}
"""Name -> shape of the mesh: copies times pieces, or pieces."""


def num_ranks_of(name):
    return torch.Size(RANKS[name]).numel()


def tiny_model():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **KEYS))
    for parameter in model.parameters():  # also norms, whose ones would hide mistakes
        torch.nn.init.normal_(parameter)
    return model


def wrap(model, name, mesh):
    if name.startswith("fsdp2"):
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    strategy = ShardingStrategy.HYBRID_SHARD if mesh.ndim == 2 else ShardingStrategy.FULL_SHARD
    return FullyShardedDataParallel(
        model, device_mesh=mesh, sharding_strategy=strategy, device_id=torch.device("cpu")
    )


def save(rank, folder, name):
    shape = RANKS[name]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("ddp", "fsdp")[-len(shape) :])
    model = wrap(tiny_model(), name, mesh)
    state = get_model_state_dict(model, options=StateDictOptions(cpu_offload=True))
    actor = folder / name
    actor.mkdir(exist_ok=True)
    ending = f"world_size_{dist.get_world_size()}_rank_{rank}.pt"
    torch.save(state, actor / f"model_{ending}")
    for part in ("optim", "extra_state"):
        torch.save({}, actor / f"{part}_{ending}")


def work(rank, folder, names):
    for name in names:
        world = num_ranks_of(name)
        if rank < world:
            store = f"file://{folder / name}.store"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
            save(rank, folder, name)
            dist.destroy_process_group()


def main(folder, names):
    model = tiny_model()
    torch.save(model.state_dict(), folder / "whole.pt")
    # forked: four processes that import torch and transformers anew take half a minute of CPU
    num_ranks = max(map(num_ranks_of, names))
    start_processes(work, (folder, names), num_ranks, start_method="fork")
    model.config.architectures = [type(model).__name__]
    for name in names:
        model.config.save_pretrained(folder / name / "huggingface")
        model.generation_config.save_pretrained(folder / name / "huggingface")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(RANKS))
