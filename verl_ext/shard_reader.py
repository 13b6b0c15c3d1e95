"""Reads what one rank of FSDP saved: which piece of which tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from ptl_plugins.errors import StageError
from verl_ext.pickled_state import in_short, read_state

RANK_FILE = re.compile(r"(model|optim|extra_state)_world_size_([1-9]\d*)_rank_(\d+)\.pt")
"""As verl and EasyR1 name them; both keep weights, optimizer and the rest apart."""
MESHES = (("fsdp",), ("ddp", "fsdp"))
"""Names of the dimensions along which ranks may lie; whole copies along `ddp`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one rank has of one tensor."""

    local: torch.Tensor
    """Mapped from the file: its bytes are read when they are used."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dim: int | None
    """The dimension that is cut into one piece per rank; None: every rank has the whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankState:
    """What one rank saved."""

    path: Path
    pieces: Mapping[str, Piece]
    """By the tensor's name."""
    ranks: tuple[int, ...] | None
    """The ranks, in order, whose pieces make the whole; None: no tensor is cut."""


def rank_files(actor: Path) -> dict[int, Path]:
    """Return the weights' files in `actor` by rank, up to the world's size; some may not be there.

    Raises:
        StageError: there is none, or they are of several worlds.
    """
    matches = [RANK_FILE.fullmatch(file.name) for file in _files(actor)]
    sizes = sorted({int(match[2]) for match in matches if match and match[1] == "model"})
    if not sizes:
        raise StageError(
            f"{actor}: has no file model_world_size_W_rank_R.pt; give the folder of one saved "
            "step, global_step_N/actor"
        )
    if len(sizes) > 1:
        raise StageError(
            f"{actor}: holds shards of several worlds, of {' and '.join(map(str, sizes))} ranks; "
            "leave those of one"
        )
    return {rank: actor / _name(rank, sizes[0]) for rank in range(sizes[0])}


def _name(rank: int, world_size: int) -> str:
    return f"model_world_size_{world_size}_rank_{rank}.pt"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def read_rank(path: Path) -> RankState:
    """Map the tensors of one rank's file, as `rank_files` names it, into memory.

    Raises:
        StageError: no such file, cut short, with a class that is not allowed, of another rank
            than its name tells, or with tensors that are cut in a way that neither framework uses.
    """
    state = read_state(path)
    try:
        tables = {_ranks(path, tensor) for tensor in state.values() if isinstance(tensor, DTensor)}
        pieces = {name: _piece(path, name, tensor) for name, tensor in state.items()}
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise StageError(
            f"{path}: its sharding is not as torch {torch.__version__} knows it "
            f"({type(error).__name__}: {in_short(error)}); merge with the torch that saved it"
        ) from error
    if len(tables) > 1:
        raise StageError(f"{path}: its tensors lie on several meshes; one is allowed")
    return RankState(path=path, pieces=pieces, ranks=next(iter(tables), None))


def _ranks(path: Path, tensor: DTensor) -> tuple[int, ...]:
    """Return the ranks that hold the pieces of the first copy."""
    names, table = _mesh(tensor.device_mesh)
    if names not in MESHES:
        raise StageError(
            f"{path}: its ranks lie on a mesh of {names}; only "
            f"{' and '.join(map(str, MESHES))} can be merged: train without tensor parallelism"
        )
    own = int(table[tuple(tensor.device_mesh.get_coordinate() or ())])
    if path.name != _name(own, table.numel()):
        raise StageError(
            f"{path}: was saved by rank {own} of {table.numel()}; give the files their own names "
            "back"
        )
    return tuple(int(rank) for rank in (table[0] if len(names) == 2 else table))


def _mesh(mesh: DeviceMesh) -> tuple[tuple[str, ...] | None, torch.Tensor]:
    """Return the names of a mesh's dimensions and its table of ranks.

    Up to torch 2.8 both were plain attributes, and a mesh from there still has them: later
    versions compute them from others, which it lacks.
    """
    saved = vars(mesh)
    if "mesh" in saved:
        return saved["mesh_dim_names"], saved["mesh"]
    return mesh.mesh_dim_names, mesh.mesh


def _piece(path: Path, name: str, tensor: torch.Tensor) -> Piece:
    if not isinstance(tensor, DTensor):
        return Piece(local=tensor, shape=tuple(tensor.shape), dim=None)
    *copies, last = tensor.placements
    whole = all(type(each) is Replicate for each in copies)
    if not whole or type(last) not in (Replicate, Shard):
        raise StageError(
            f"{path}: '{name}' is placed as {tensor.placements}; only Shard and Replicate over "
            "'fsdp', and Replicate over 'ddp', can be merged"
        )
    dim = last.dim if isinstance(last, Shard) else None
    local = tensor.to_local()
    if local.ndim != tensor.ndim or (dim is None and local.shape != tensor.shape):
        raise RuntimeError(f"'{name}' of {list(tensor.shape)} has a piece of {list(local.shape)}")
    return Piece(local=local, shape=tuple(tensor.shape), dim=dim)
