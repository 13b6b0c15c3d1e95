"""The files of a checkpoint beside its weights and config: tokenizer, licence, templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ptl_plugins.given_path import given_path

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
UNFINISHED_SUFFIXES = (".ptl-part", ".ptl-tmp")
"""What a killed `ptl` leaves for the next try."""
HUB_SIDE_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*")


def side_files(original: str) -> Iterator[Path]:
    """Yield the files of the original that a pruned checkpoint carries over unchanged."""
    folder = given_path(original)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(original, allow_patterns=list(HUB_SIDE_FILES)))
    for file in sorted(folder.iterdir()):
        if file.is_file() and not _is_own(file.name):
            yield file


def _is_own(name: str) -> bool:
    """Whether a file describes the weights themselves, which are written anew."""
    weights = name.endswith((*WEIGHT_SUFFIXES, *UNFINISHED_SUFFIXES, ".index.json"))
    return weights or name.startswith(".") or name in ("config.json", "ptl_pruning.json")
