"""A program: two ranks over gloo profile a model as verl's workers do, each its share."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from transformers import AutoModelForCausalLM

from verl_ext.in_verl.activations import Activations

RANKS = 2


def work(rank, folder):
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    sequences = torch.load(folder / "sequences.pt")
    with Activations(model) as activations, torch.no_grad():
        for first in range(0, len(sequences), RANKS):
            activations.counting = first + rank < len(sequences)
            share = sequences[first + rank if activations.counting else 0]
            model(input_ids=torch.tensor([share]))
    activations.reduce()
    if rank == 0:
        activations.save(str(folder / "out.safetensors"))
    dist.destroy_process_group()


if __name__ == "__main__":
    start_processes(work, (Path(sys.argv[1]),), RANKS, start_method="fork")
