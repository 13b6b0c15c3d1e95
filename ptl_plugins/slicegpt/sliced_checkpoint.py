"""Writes the sliced model of a checkpoint folder, layer by layer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptl_plugins.calibration import Batches
from ptl_plugins.durable import claimed_folder, write_json
from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.geometry import geometry
from ptl_plugins.live import accelerator
from ptl_plugins.provenance import FILE
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.side_files import side_files
from ptl_plugins.slicegpt.configuration_ptl_sliced import PTLSlicedConfig
from ptl_plugins.slicegpt.criterion import Basis
from ptl_plugins.slicegpt.layer_slicing import Slicer, Stream, rotated_rows
from ptl_plugins.slicegpt.shard_files import SHARD_BYTES, ShardFiles
from ptl_plugins.slicegpt.sliced_config import sliced_config
from ptl_plugins.slicegpt.source_weights import SourceWeights

CODE = ("configuration_ptl_sliced.py", "modeling_ptl_sliced.py")
"""Files beside this one that every sliced checkpoint carries."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceRequest:
    """What is sliced, on what, to where."""

    source: Path
    out: Path
    """A folder that is not there yet."""
    family: Family
    hidden: int
    """Directions of the residual stream that stay; all of them: it is only rotated."""
    sequences: Sequence[Sequence[int]]
    """Token ids of the calibration sequences."""
    batch_tokens: int
    basis: Basis
    seed: int
    provenance: Mapping[str, Any]
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceCost:
    """What slicing took."""

    seconds: float
    num_tokens: int
    activation_bytes: int
    device: str

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"sliced in {self.seconds:.1f} s on {self.device}, from {self.num_tokens:,} tokens "
            f"whose activations took {self.activation_bytes / 2**20:,.1f} MiB"
        )


@torch.no_grad()
def slice_checkpoint(request: SliceRequest) -> SliceCost:
    """Write the sliced model to `request.out`, whole or not at all.

    One layer's weights and one batch are on the device, the activations of all sequences on the
    CPU; embedding and lm_head are held once each.

    Raises:
        PruneError: the checkpoint is broken, or the folder cannot be written.
    """
    start = time.perf_counter()
    device = accelerator()
    checkpoint = open_checkpoint(request.source)
    weights = SourceWeights(checkpoint=checkpoint, family=request.family, device=device)
    keys = sliced_config(
        checkpoint.config, request.family, hidden=request.hidden, biases=weights.biases()
    )
    try:
        with claimed_folder(request.out) as folder:
            _write_side_files(request, folder, keys)
            files = ShardFiles(folder=folder, shard_bytes=request.shard_bytes)
            stream = _slice(request, weights, PTLSlicedConfig(**keys), files)
            files.finish()
    except OSError as error:
        raise PruneError(f"{request.out}: not written, nothing is left there: {error}") from error
    return SliceCost(
        seconds=time.perf_counter() - start,
        num_tokens=sum(int(mask.sum()) for mask in stream.masks),
        activation_bytes=stream.num_bytes,
        device=str(device),
    )


def _slice(
    request: SliceRequest, weights: SourceWeights, config: PTLSlicedConfig, files: ShardFiles
) -> Stream:
    slicer = Slicer(config=config, basis=request.basis, seed=request.seed, device=weights.device)
    embedding = weights.embedding()
    stream = _embedded(request, embedding, config.embedding_scale)
    rotation = slicer.first_rotation(stream)
    files.add({"model.embed_tokens.weight": rotated_rows(embedding, rotation)})
    del embedding
    for index in range(config.num_hidden_layers):
        place = f"model.layers.{index}."
        for read, cut in (
            (weights.attention, slicer.slice_attention),
            (weights.mlp, slicer.slice_mlp),
        ):
            tensors, rotation = cut(read(index), index, rotation, stream)
            files.add({place + name: tensor for name, tensor in tensors.items()})
    tied = geometry(weights.checkpoint.config, request.family).tied
    head = rotated_rows(weights.head(tied=tied), rotation, weights.final_scale())
    files.add({"lm_head.weight": head})
    return stream


def _embedded(request: SliceRequest, embedding: torch.Tensor, scale: float) -> Stream:
    """Return the stream before the first layer."""
    cpu = torch.device("cpu")
    batches = Batches(request.sequences, batch_tokens=request.batch_tokens, device=cpu)
    states, masks = [], []
    for index in range(len(batches)):
        batch = batches[index]
        states.append(embedding[batch.input_ids].float() * scale)
        masks.append(batch.attention_mask)
    return Stream(states=states, masks=masks)


def _write_side_files(request: SliceRequest, folder: Path, keys: Mapping[str, Any]) -> None:
    for file in side_files(str(request.source)):
        shutil.copyfile(file, folder / file.name)
    for name in CODE:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    write_json(folder / "config.json", keys)
    write_json(folder / FILE, request.provenance)
