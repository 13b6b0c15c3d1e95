"""Checks a whole checkpoint before anything is written: its links, headers, names and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.geometry import Geometry
from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.shards import Checkpoint, open_checkpoint

EXPONENTS: Mapping[str, tuple[str, int]] = {
    "BF16": ("<u2", 0xFF00),
    "F16": ("<u2", 0xF800),
    "F32": ("<u4", 0xFF000000),
    "F64": ("<u8", 0xFFE0000000000000),
}
"""By dtype: how its numbers are read, and the least that one without its sign bit, moved up by
one, has to be in order to be infinite or not a number."""
BLOCK_BYTES = 4 << 20
REMEDY = "download or copy the checkpoint again"


def require_sound(folder: Path) -> Checkpoint:
    """Return the opened checkpoint; its weights are those of its config, and all finite.

    Raises:
        PTLError: a link, a header, a name, a shape or a value is wrong.
    """
    checkpoint = open_checkpoint(folder)
    require_fit(checkpoint)
    require_finite(checkpoint)
    return checkpoint


def require_finite(checkpoint: Checkpoint) -> None:
    """Read every weight once, in blocks of some MB.

    Raises:
        PruneError: one is infinite or not a number.
    """
    for entry in checkpoint.tensors.values():
        if entry.dtype in EXPONENTS and not _is_finite(checkpoint.folder / entry.file, entry):
            raise PruneError(
                f"{checkpoint.folder / entry.file}: tensor {entry.name!r} is not finite: the "
                f"model is damaged, or its training diverged; {REMEDY}"
            )


def _is_finite(path: Path, entry: TensorEntry) -> bool:
    kind, least = EXPONENTS[entry.dtype]
    with path.open("rb") as file:
        file.seek(entry.start)
        for start in range(entry.start, entry.end, BLOCK_BYTES):
            raw = file.read(min(BLOCK_BYTES, entry.end - start))
            numbers = np.frombuffer(raw, kind)
            if bool((np.left_shift(numbers, 1) >= least).any()):
                return False
    return True


def require_ffn(checkpoint: Checkpoint, family: Family, sizes: Geometry) -> None:
    """Hold the FFN of every layer against the sizes of the config; neither torch nor a model.

    Raises:
        PruneError: a matrix is missing, or of another shape.
    """
    rows = family.ffn_blocks * sizes.width
    wanted = dict.fromkeys(family.ffn_inputs, (rows, sizes.hidden))
    wanted[family.ffn_output] = (sizes.hidden, sizes.width)
    shapes = {
        f"{family.layers}.{layer}.{module}.weight": shape
        for layer in range(sizes.num_layers)
        for module, shape in wanted.items()
    }
    _require_shapes(checkpoint, shapes)


def require_fit(checkpoint: Checkpoint) -> None:
    """Hold names and shapes against the model that transformers would make of the config.

    The model is made without memory. One that transformers does not know is left to the plugin
    that does.

    Raises:
        PruneError: a tensor is missing, of another shape, or of a layer that there is not.
    """
    wanted = _wanted_shapes(checkpoint)
    if wanted is None:
        return
    _require_shapes(checkpoint, wanted)
    over = [n for n in checkpoint.tensors if n not in wanted and ".layers." in n]
    _refuse(
        checkpoint,
        [name for name in over if "rotary" not in name],
        "is there, which the model of config.json has not",
    )


def _require_shapes(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]) -> None:
    tensors = checkpoint.tensors
    for name in sorted(tensors.keys() & wanted.keys()):
        if tensors[name].shape != wanted[name]:
            shape, right = list(tensors[name].shape), list(wanted[name])
            _refuse(checkpoint, [name], f"is of shape {shape}, config.json makes it {right}")
    missing = wanted.keys() - tensors.keys()
    _refuse(checkpoint, missing, "is missing, which the model of config.json has")


def _refuse(checkpoint: Checkpoint, names: Collection[str], what: str) -> None:
    """Raise an error of the first of these tensors, if there are any."""
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise PruneError(
            f"{checkpoint.folder}: tensor {min(names)!r}{more} {what}; mend config.json, or "
            f"{REMEDY}"
        )


def _wanted_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]] | None:
    """Return the shape of every parameter that is not tied to another, or None."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if checkpoint.config.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers fails in many ways over what a config says
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PruneError(
            f"{checkpoint.folder}: the model cannot be loaded ({reason}); mend its config.json, or "
            f"{REMEDY}"
        ) from error
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
