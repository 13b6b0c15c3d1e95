"""Reads a model's `config.json`, from a folder, the hub cache or the hub, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.given_path import given_path, is_folder
from ptl_plugins.json_file import read_json
from ptl_plugins.linked_files import require_own_file
from ptl_plugins.side_files import HUB_SIDE_FILES

CHECKPOINT_FILES = ("*.safetensors", *HUB_SIDE_FILES)
"""What is asked of the hub: weights in one format, and the side files."""


def read_config(model: str) -> dict[str, Any]:
    """Return the config of a checkpoint folder or of a hub model.

    Raises:
        PTLError: no such folder, no config in it, or the hub does not give it.
    """
    path = config_path(model)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise PTLError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise PTLError(f"{path}: is not a JSON object")
    return config


def config_path(model: str) -> Path:
    """Return the path of the model's `config.json`.

    Raises:
        PTLError: it is in no folder, and the hub does not give it.
    """
    folder = given_path(model)
    if folder.is_dir():
        require_own_file(folder / "config.json")
        if not (folder / "config.json").is_file():
            raise PTLError(f"model '{model}': the folder has no config.json")
        return folder / "config.json"
    if looks_like_path(model):
        raise PTLError(f"model '{model}': no such folder")
    return _cached(model)


def model_folder(model: str) -> Path:
    """Return the folder of a checkpoint: the given one, or a hub model's in the cache.

    Raises:
        PTLError: it is no folder with a config, and the hub does not give the model.
    """
    if is_folder(model):
        return config_path(model).parent
    if looks_like_path(model):
        raise PTLError(f"model '{model}': no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(CHECKPOINT_FILES)))
    except Exception as error:  # every failure of the hub means the same to the user
        raise PTLError(
            f"model '{model}': no such folder, and the hub did not give it "
            f"({type(error).__name__}); check the name, or give a local folder"
        ) from error


def looks_like_path(model: str) -> bool:
    """Whether `model` can only be a local path, not a hub name `owner/name`."""
    return model.startswith(("/", ".", "~")) or model.count("/") != 1


def _cached(model: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    if isinstance(found, str):
        return Path(found)
    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # every failure of the hub means the same to the user
        raise PTLError(
            f"model '{model}': no such folder, and the hub did not give its config.json "
            f"({type(error).__name__}); check the name, or give a local folder"
        ) from error
