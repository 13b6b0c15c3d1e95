"""A checkpoint folder as it lies on disk: its config, its safetensors files, its tensors.

Nothing but headers is read; a model of any size opens in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PruneError
from ptl_plugins.json_file import read_json
from ptl_plugins.linked_files import require_own_files
from ptl_plugins.model_config import read_config
from ptl_plugins.shard_header import ShardHeader, TensorEntry, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_PATTERNS = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """`model.safetensors.index.json`, checked."""

    metadata: Mapping[str, Any]
    """Such as `total_size`, the bytes of all tensors."""
    weight_map: Mapping[str, str]
    """Tensor -> file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The headers of a folder's weights."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    """By name, in the order of the files and of the bytes in each."""
    files: tuple[str, ...]
    """Names of the safetensors files, sorted."""
    file_metadata: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict)
    """File -> the text values of its `__metadata__`, None where it has none."""
    index: ShardIndex | None = None
    """None: all weights are in one `model.safetensors`."""

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder}, {len(self.tensors)} tensors, {len(self.files)} files)"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the config and the headers of the safetensors files in `folder`.

    As in transformers, `model.safetensors` goes before an index. Files may be symbolic links only
    within the folder, or as in the hub's cache; the index names only files of the folder.

    Raises:
        PruneError: no safetensors weights, quantised ones, a broken file, or an index that does
            not fit its files.
        PTLError: no readable `config.json`.
    """
    if not folder.is_dir():
        raise PruneError(f"model '{folder}': no such folder; give a checkpoint folder")
    config = read_config(str(folder))
    require_own_files(folder)
    if config.get("quantization_config"):
        raise PruneError(
            f"{folder / 'config.json'}: quantization_config: the model is quantised, and a "
            "quantised model cannot be pruned; give the full-precision one"
        )
    index = None if (folder / SINGLE_FILE).is_file() else _read_index(folder)
    files = tuple(sorted(set(index.weight_map.values()))) if index else (SINGLE_FILE,)
    headers = {file: read_header(folder / file) for file in files}
    return Checkpoint(
        folder=folder,
        config=config,
        tensors=_gathered(folder, headers, index),
        files=files,
        file_metadata={file: header.metadata for file, header in headers.items()},
        index=index,
    )


def require_safetensors(folder: Path) -> None:
    """Refuse a folder whose weights lie in no safetensors files.

    Raises:
        PruneError: it has none; where it has pickled ones, the text tells how to convert them.
    """
    if not any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        raise PruneError(_without_weights(folder))


def _gathered(
    folder: Path, headers: Mapping[str, ShardHeader], index: ShardIndex | None
) -> dict[str, TensorEntry]:
    """Return the tensors of all files; a tensor that the index leaves out is kept as well."""
    tensors: dict[str, TensorEntry] = {}
    for header in headers.values():
        for entry in header.tensors:
            if entry.name in tensors:
                raise PruneError(
                    f"{folder}: tensor {entry.name!r} is in {tensors[entry.name].file} and in "
                    f"{entry.file}; one of them is left over, download the checkpoint again"
                )
            tensors[entry.name] = entry
    if not tensors:
        raise PruneError(f"{folder}: its safetensors files hold no tensor; download it again")
    for name, file in index.weight_map.items() if index else ():
        if name not in tensors or tensors[name].file != file:
            raise PruneError(
                f"{folder / INDEX_FILE}: weight_map: {name!r} shall be in {file}, but is not; "
                "index and files are of different checkpoints, download both again"
            )
    return tensors


def _read_index(folder: Path) -> ShardIndex:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise PruneError(_without_weights(folder))
    try:
        keys = read_json(path)
        weight_map = dict(keys["weight_map"])
        metadata = dict(keys.get("metadata") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PruneError(
            f"{path}: is no index of safetensors files, a JSON object with a weight_map "
            f"({type(error).__name__}: {error}); download it again"
        ) from error
    if not weight_map:
        raise PruneError(f"{path}: weight_map: names no tensor; download it again")
    for name, file in weight_map.items():
        _require_file_name(path, name, file)
    return ShardIndex(metadata=metadata, weight_map=weight_map)


def _require_file_name(path: Path, name: str, file: Any) -> None:
    """Refuse what would read outside the folder, or no weights."""
    plain = isinstance(file, str) and file.endswith(".safetensors") and not set(file) & set("/\\")
    plain = plain and file.isprintable()
    if not plain:
        raise PruneError(
            f"{path}: weight_map: {name!r}: {file!r} is not the name of a .safetensors file in "
            "the same folder; mend the index or download it again"
        )
    if not (path.parent / file).is_file():
        raise PruneError(
            f"{path}: weight_map: {name!r}: {file} is not in the folder; download it again"
        )


def _without_weights(folder: Path) -> str:
    """Return what to do about a folder without safetensors, in one line."""
    pickled = sorted(file.name for pattern in PICKLED_PATTERNS for file in folder.glob(pattern))
    if not pickled:
        return (
            f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}; give a folder with the "
            "model's weights"
        )
    source, target = str(folder), f"{folder}-safetensors"
    return (
        f"{folder}: has its weights in {pickled[0]}, and only safetensors can be pruned; convert "
        "(and copy other side files, such as the licence and remote code, by hand): "
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained({source!r}).save_pretrained({target!r}); "
        f'T.from_pretrained({source!r}).save_pretrained({target!r})"'
    )
