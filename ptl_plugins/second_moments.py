"""Second moments of the FFN's output matrices' inputs on disk: one file per layer.

H = X^T X over all calibration tokens, X [tokens, width] being the input of `down_proj`, is all
that a refit needs to know of the data. A layer of width 14336 takes 822 MB in fp32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.live import decoder_layers, width
from ptl_plugins.ranks import Ranks
from ptl_plugins.tensor_file import metadata_of, save_tensors

NAME = "second_moment"
SHARE = 0.4
"""Of the free memory, what second moments may take unless told otherwise."""
REMEDY = "make it with 'ptl profile --second-moments'"


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentFolder:
    """`layer_000.safetensors` and so on, each with what it was made from."""

    path: Path
    about: Mapping[str, str] = field(default_factory=dict)
    """Metadata of every file: digests of model and data. Files with other ones are refused."""

    def file(self, layer: int) -> Path:
        """Return the path of a layer's second moment."""
        return self.path / f"layer_{layer:03d}.safetensors"

    def write(self, totals: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
        """Merge the layers' moments over the ranks; the main rank writes them."""
        for layer, total in totals.items():
            ranks.merge(total, "sum")
            if ranks.rank == 0:
                self.path.mkdir(parents=True, exist_ok=True)
                save_tensors(self.file(int(layer)), {NAME: total.cpu()}, self.about)
        ranks.barrier()

    def read(self, layer: int, size: int) -> torch.Tensor:
        """Return a layer's moment, fp32 [size, size], on the CPU.

        Raises:
            PruneError: it is missing, damaged, of another width, or of another model.
        """
        self.require(layer)
        with safe_open(os.fspath(self.file(layer)), framework="pt") as file:
            moment: torch.Tensor = file.get_tensor(NAME)
        if moment.shape != (size, size):
            raise PruneError(
                f"{self.file(layer)}: is of width {moment.shape[0]}, the model's layers have "
                f"{size}; remove it, and {REMEDY}"
            )
        if not bool(moment.isfinite().all()):
            raise PruneError(
                f"{self.file(layer)}: holds values that are not finite: the model or its data "
                f"overflow; remove it, and {REMEDY}"
            )
        return moment

    def require(self, layer: int) -> None:
        """Check that a layer's file is there and was made from the same model.

        Raises:
            PruneError: it is missing, damaged, or of another model.
        """
        path = self.file(layer)
        if not path.exists():
            raise PruneError(f"{path}: no such second moment; {REMEDY}")
        try:
            with safe_open(os.fspath(path), framework="numpy") as file:
                metadata = metadata_of(file)
                names = list(file.keys())
        except (OSError, SafetensorError, ValueError) as error:
            raise PruneError(
                f"{path}: cannot be read as a second moment ({error}); remove it, and {REMEDY}"
            ) from error
        if names != [NAME]:
            raise PruneError(f"{path}: holds no '{NAME}'; name another folder, or {REMEDY}")
        for key, value in self.about.items():
            if metadata.get(key) != value:
                raise PruneError(
                    f"{path}: was made from another {key.removesuffix('_digest')} "
                    f"({key} {str(metadata.get(key))[:12]}, not {value[:12]}); name another "
                    f"folder, or remove it and {REMEDY}"
                )

    def has(self, layer: int) -> bool:
        """Whether a layer's file is there.

        Raises:
            PruneError: it is there, but damaged or of another model.
        """
        if self.file(layer).exists():
            self.require(layer)
            return True
        return False


def layer_groups(
    model: PreTrainedModel,
    family: Family,
    ranks: Ranks,
    folder: MomentFolder,
    memory: int | None = None,
) -> list[range]:
    """Return the layers whose moments are missing, in groups that fit into memory together.

    The ranks agree: the main rank looks at the folder, the tightest rank sets the size.
    """
    number = len(decoder_layers(model, family))
    device = next(model.parameters()).device
    budget = min(ranks.gather(free_memory(device) if memory is None else memory))
    size = max(1, budget // (4 * width(model, family) ** 2))
    missing = ranks.gather([i for i in range(number) if not folder.has(i)])[0]
    groups: list[range] = []
    for layer in missing:
        if groups and groups[-1].stop == layer and len(groups[-1]) < size:
            groups[-1] = range(groups[-1].start, layer + 1)
        else:
            groups.append(range(layer, layer + 1))
    return groups


def free_memory(device: torch.device) -> int:
    """Return the bytes of `device` that second moments may take in this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(psutil.virtual_memory().available * SHARE / neighbours)
