"""Cuts a plan out of a checkpoint folder, tensor by tensor, without torch and transformers.

Whatever the model's size, memory holds two buffers of some MB. The new folder is bit-identical to
cutting and saving the live model.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptl_plugins.checkpoint_config import pruned_config
from ptl_plugins.durable import claimed_folder, json_text, write_json
from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.plan_check import require_uniform
from ptl_plugins.shard_layout import ShardLayout, index_json, shard_layouts
from ptl_plugins.shard_writer import ShardWriter
from ptl_plugins.shards import INDEX_FILE, Checkpoint, open_checkpoint
from ptl_plugins.tensor_cut import TensorCut, tensor_cuts
from ptl_plugins.types import PrunePlan

NewOutputs = Callable[[int], NDArray[Any]]
"""Old index of a layer -> its new output matrix, [hidden, kept] in the stored dtype's bytes."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """One pruning, worked out; only bytes are left to move."""

    checkpoint: Checkpoint
    plan: PrunePlan
    layouts: tuple[ShardLayout, ...]
    config: Mapping[str, Any]
    side_files: tuple[Path, ...]
    extra: Mapping[str, Any]
    new_outputs: NewOutputs | None

    @property
    def json_files(self) -> dict[str, Any]:
        """The JSON files by name, in the order in which they are written."""
        index = self.checkpoint.index
        shards = {} if index is None else {INDEX_FILE: index_json(self.checkpoint, self.layouts)}
        return {**shards, "config.json": self.config, **self.extra}

    def num_bytes(self, block: int) -> int:
        """Bytes that all files take on a disk of such blocks, the folder's own among them."""
        sizes = [1, *(layout.num_bytes for layout in self.layouts)]
        sizes += [file.stat().st_size for file in self.side_files]
        sizes += [len(json_text(value)) for value in self.json_files.values()]
        return sum(-(-size // block) * block for size in sizes)


def prune_checkpoint(
    source: Path,
    out: Path,
    family: Family,
    plan: PrunePlan,
    *,
    side_files: Iterable[Path],
    extra: Mapping[str, Any],
    new_outputs: NewOutputs | None = None,
) -> None:
    """Write the model in `source`, less what `plan` names, to the new folder `out`.

    The folder appears whole and on the disk, or not at all. Tensors keep their dtype, their file
    and their order; files that lose every tensor go, and the others are renumbered. Of layers
    that go nothing is read.

    Args:
        source: folder with `config.json` and safetensors.
        out: folder that must not be there yet.
        family: where the neurons and layers are.
        plan: what goes; it was made for this model.
        side_files: files that are copied unchanged, such as the tokenizer's.
        extra: further JSON files by name, such as `ptl_pruning.json`.
        new_outputs: gives the output matrix of each layer that stays, asked once per layer, in
            place of the plain cut.

    Raises:
        PruneError: `out` is there, the checkpoint is broken or not the plan's, or the disk is
            too small.
    """
    if os.path.lexists(out):
        raise PruneError(f"{out}: is there already; remove it, or write to another folder")
    checkpoint = open_checkpoint(source)
    require_uniform(plan)
    job = _Job(
        checkpoint=checkpoint,
        plan=plan,
        config=pruned_config(checkpoint.config, family, plan),
        layouts=shard_layouts(checkpoint, tensor_cuts(checkpoint, family, plan)),
        side_files=tuple(side_files),
        extra=extra,
        new_outputs=new_outputs,
    )
    _require_space(job, out)
    _carry_out(job, out)


def _carry_out(job: _Job, out: Path) -> None:
    try:
        with claimed_folder(out) as folder:
            _write(job, folder)
    except FileExistsError as error:
        if error.filename != str(out):
            raise _not_written(job, out, error) from error
        raise PruneError(f"{out}: came into being meanwhile; write to another folder") from error
    except OSError as error:
        raise _not_written(job, out, error) from error


def _require_space(job: _Job, out: Path) -> None:
    if _needed_bytes(job, out) > _free_bytes(out):
        raise _disk_full(job, out)


def _needed_bytes(job: _Job, out: Path) -> int:
    return job.num_bytes(os.statvfs(_present(out)).f_frsize)


def _free_bytes(out: Path) -> int:
    return shutil.disk_usage(_present(out)).free


def _present(out: Path) -> Path:
    return next(parent for parent in out.absolute().parents if parent.is_dir())


def _disk_full(job: _Job, out: Path) -> PruneError:
    return PruneError(
        f"{out}: the disk is full: the pruned model needs {_needed_bytes(job, out)} bytes, "
        f"{_free_bytes(out)} are free; make room, or write to another disk"
    )


def _not_written(job: _Job, out: Path, error: OSError) -> PruneError:
    if error.errno in DISK_FULL:
        return _disk_full(job, out)
    return PruneError(f"{out}: not written, nothing is left there: {error}")


def _write(job: _Job, folder: Path) -> None:
    for file in job.side_files:
        shutil.copyfile(file, folder / file.name)
    for layout in job.layouts:
        _write_shard(job, layout, folder / layout.file)
    for name, value in job.json_files.items():
        write_json(folder / name, value)
    _verify(folder, [cut for layout in job.layouts for cut in layout.cuts])


def _write_shard(job: _Job, layout: ShardLayout, path: Path) -> None:
    file = job.checkpoint.folder / layout.cuts[0].entry.file
    with FileIO(file) as source, FileIO(path, "x") as target:
        writer = ShardWriter(source, target)
        writer.raw(np.frombuffer(layout.header, np.uint8))
        for cut in layout.cuts:
            _write_tensor(job, cut, writer)
        writer.finish()


def _write_tensor(job: _Job, cut: TensorCut, writer: ShardWriter) -> None:
    if cut.axis == 1 and cut.layer is not None and job.new_outputs is not None:
        matrix = job.new_outputs(cut.layer)
        if matrix.nbytes != cut.num_bytes:
            raise RuntimeError(f"{cut.name}: {matrix.shape} instead of {cut.shape}")
        writer.raw(np.ascontiguousarray(matrix))
    elif cut.shape == cut.entry.shape:
        writer.whole(cut.entry)
    elif cut.axis == 1:
        writer.columns(cut.entry, _kept(job.plan, cut))
    else:
        writer.rows(cut.entry, _kept(job.plan, cut))


def _kept(plan: PrunePlan, cut: TensorCut) -> NDArray[np.intp]:
    """Return the ascending indices along the tensor's axis of neurons that stay."""
    assert cut.layer is not None
    stays = np.ones((cut.blocks, plan.width), dtype=np.bool_)
    stays[:, list(plan.removed_neurons[cut.layer])] = False
    return stays.reshape(-1).nonzero()[0]


def _verify(folder: Path, cuts: Sequence[TensorCut]) -> None:
    """Open the result again and hold names, dtypes and shapes against the plan.

    Raises:
        RuntimeError: they differ, which is a mistake of PTL's.
    """
    written = {e.name: (e.dtype, e.shape) for e in open_checkpoint(folder).tensors.values()}
    planned = {cut.name: (cut.entry.dtype, cut.shape) for cut in cuts}
    if written != planned:
        raise RuntimeError(f"{folder}: {set(written) ^ set(planned) or 'other shapes'}")
