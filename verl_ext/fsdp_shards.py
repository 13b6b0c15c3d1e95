"""Merges the shards that FSDP saved, one file per rank, into a safetensors checkpoint.

verl and EasyR1 save alike: `global_step_N/actor/model_world_size_W_rank_R.pt` holds the pieces of
rank R, and `huggingface/` beside it the config and the tokenizer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file

from ptl_plugins.durable import new_folder, write_json
from ptl_plugins.errors import StageError
from ptl_plugins.shards import INDEX_FILE
from ptl_plugins.side_files import side_files
from verl_ext.shard_reader import RANK_FILE, Piece, RankState, rank_files, read_rank

CONFIG_FOLDER = "huggingface"
FILE_BYTES = 5 * 10**9
"""As much of the merged model is in memory at a time."""


def merge_shards(
    actor: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    file_bytes: int = FILE_BYTES,
) -> Path:
    """Write the whole model, of which `actor` holds the shards, to the folder `out`.

    Every tensor of the shards is written, a tied output matrix too. Where whole copies of the
    model were trained side by side (`ddp`), the first copy is taken.

    Args:
        actor: the folder of one saved step, `global_step_N/actor`; it is left as it is.
        out: replaced if it is there already; a failed merge leaves it as it was.
        dtype: of the written floating-point tensors; others keep theirs.
        file_bytes: the most bytes of one written file, unless one tensor alone has more.

    Returns:
        `out`.

    Raises:
        StageError: a shard is missing, broken, holds what is not allowed, or does not fit the
            others; or `out` cannot be written.
    """
    states = _read(actor)
    sides = _sides(actor)
    if out.resolve() in (actor.resolve(), *actor.resolve().parents):
        raise StageError(f"{out}: would be replaced, with the shards in it; give another folder")
    try:
        with new_folder(out) as folder:
            _write(folder, states, dtype, file_bytes)
            for file in sides:
                shutil.copyfile(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise StageError(
            f"{out}: cannot be written ({error}); make room, then try again"
        ) from error
    return out


def remove_shards(actor: Path) -> None:
    """Delete what every rank saved: weights, optimizer and extra state, but no other file."""
    for file in sorted(actor.iterdir()):
        if RANK_FILE.fullmatch(file.name):
            file.unlink()


def _read(actor: Path) -> list[RankState]:
    """Map the files of the ranks that make the whole model, in order."""
    files = rank_files(actor)
    first = read_rank(files[0])
    ranks = tuple(files) if first.ranks is None else first.ranks
    states = [first if rank == 0 else read_rank(files[rank]) for rank in ranks]
    for state in states[1:]:
        _require_fit(first, state)
    return states


def _require_fit(first: RankState, other: RankState) -> None:
    """Refuse a rank of another model, or of another step's sharding."""
    for name in sorted(first.pieces.keys() ^ other.pieces.keys()):
        have, lack = (first, other) if name in first.pieces else (other, first)
        raise StageError(
            f"{lack.path}: lacks '{name}', which {have.path.name} has; the two are of different "
            "models, copy the shards again"
        )
    if first.ranks != other.ranks:
        raise StageError(
            f"{other.path}: its ranks lie on another mesh than those of {first.path.name}; the two "
            "were not saved together, copy the shards again"
        )


def _sides(actor: Path) -> list[Path]:
    """Return the config and the other files beside the weights."""
    folder = actor / CONFIG_FOLDER
    config = folder / "config.json"
    if not config.is_file():
        raise StageError(f"{config}: no such file; the framework saves it beside the shards")
    return [*side_files(str(folder)), config]


def _write(folder: Path, states: Sequence[RankState], dtype: torch.dtype, file_bytes: int) -> None:
    pieces = states[0].pieces
    plan = split_torch_state_dict_into_shards(_outline(pieces, dtype), max_shard_size=file_bytes)
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: _merged(name, states, dtype) for name in names}
        save_file(tensors, os.fspath(folder / file), {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / INDEX_FILE, index)


def _outline(pieces: Mapping[str, Piece], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return tensors without memory in the shapes and dtypes that are written."""
    return {
        name: torch.empty(piece.shape, dtype=_dtype(piece, dtype), device="meta")
        for name, piece in pieces.items()
    }


def _dtype(piece: Piece, dtype: torch.dtype) -> torch.dtype:
    return dtype if piece.local.is_floating_point() else piece.local.dtype


def _merged(name: str, states: Sequence[RankState], dtype: torch.dtype) -> torch.Tensor:
    """Return one whole tensor, in memory of its own."""
    pieces = [state.pieces[name] for state in states]
    first = pieces[0]
    for state, piece in zip(states, pieces, strict=True):
        if (piece.shape, piece.dim) != (first.shape, first.dim):
            raise StageError(
                f"{state.path}: '{name}' is a piece of {list(piece.shape)} cut along {piece.dim}, "
                f"in {states[0].path.name} of {list(first.shape)} along {first.dim}; copy the "
                "shards again"
            )
    if first.dim is None:
        _require_equal(name, states)
        return first.local.to(_dtype(first, dtype), copy=True).contiguous()
    _require_whole(name, states, first)
    return torch.cat([piece.local.to(_dtype(first, dtype)) for piece in pieces], dim=first.dim)


def _require_equal(name: str, states: Sequence[RankState]) -> None:
    first = states[0].pieces[name].local
    for state in states[1:]:
        # not torch.equal: a diverged tensor's NaN shall be reported as such, later
        if not bool(torch.isclose(state.pieces[name].local, first, 0, 0, equal_nan=True).all()):
            raise StageError(
                f"{state.path}: '{name}' is a whole tensor and differs from that in "
                f"{states[0].path.name}; the shards were not saved together, copy them again"
            )


def _require_whole(name: str, states: Sequence[RankState], first: Piece) -> None:
    """Refuse pieces that make more or less than the whole, such as padded ones."""
    shapes = [list(state.pieces[name].local.shape) for state in states]
    dim, whole = first.dim or 0, list(first.shape)
    joined = [[*whole[:dim], shape[dim], *whole[dim + 1 :]] for shape in shapes]
    if shapes != joined or sum(shape[dim] for shape in shapes) != whole[dim]:
        raise StageError(
            f"{states[0].path.parent}: the ranks' pieces of '{name}' have the shapes {shapes} and "
            f"do not make {whole}; copy the shards again"
        )
