"""Checks the data sets that a yaml names, as far as LLaMA-Factory's `dataset_info.json` tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.errors import RecipeError, did_you_mean
from ptl_plugins.json_file import read_json

DEFAULT_FOLDER = "data"
"""LLaMA-Factory's own default of `dataset_dir`."""
BLANK_BYTES = 1 << 20


def check_datasets(path: Path, keys: Mapping[str, Any]) -> None:
    """Check that each named data set is known, and that its local file is there and not empty.

    Data sets of a hub, and a `dataset_dir` that is no local folder, are left to LLaMA-Factory.

    Raises:
        RecipeError: the line names file, key, data set and what is allowed.
    """
    folder = keys.get("dataset_dir", DEFAULT_FOLDER)
    if not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:"):
        return
    info_file = Path(folder) / "dataset_info.json"
    if not info_file.is_file():
        raise RecipeError(
            f"{path}: dataset_dir: '{folder}' has no dataset_info.json; it names the data sets"
        )
    try:
        known = read_json(info_file)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: dataset_dir: {info_file} is not JSON ({error})") from None
    if not isinstance(known, dict):
        raise RecipeError(f"{path}: dataset_dir: {info_file} is no mapping of data sets")
    for name in _names(keys["dataset"]):
        if name not in known:
            raise RecipeError(
                f"{path}: dataset: {name!r} is not in {info_file}{did_you_mean(name, known)}; "
                f"available: {', '.join(filter(str.isprintable, known))}"
            )
        _check_file(path, name, Path(folder), known[name])


def _names(value: object) -> list[str]:
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts]


def _check_file(path: Path, name: str, folder: Path, entry: Mapping[str, Any]) -> None:
    if not isinstance(entry, Mapping):
        raise RecipeError(f"{path}: dataset: '{name}': its entry in {folder} is no mapping")
    if "file_name" not in entry or {"hf_hub_url", "ms_hub_url", "om_hub_url"} & entry.keys():
        return
    named = entry["file_name"]
    if not isinstance(named, str) or not named.isprintable():
        raise RecipeError(f"{path}: dataset: '{name}': file_name: {named!r} is no name of a file")
    file = folder / named
    if not (file.is_file() or file.is_dir()):
        raise RecipeError(f"{path}: dataset: '{name}': {file} does not exist")
    if not _has_content(file):
        raise RecipeError(f"{path}: dataset: '{name}': {file} is empty; give it documents")


def _has_content(file: Path) -> bool:
    """Whether a folder has files, or a file begins with something other than blank lines."""
    if file.is_dir():
        return any(file.iterdir())
    with file.open("rb") as stream:
        return bool(stream.read(BLANK_BYTES).strip())
