"""Writes a live model as the plain Hugging Face checkpoint that its user expects.

Weights in the dtype of the original, and every side file of the original (tokenizer, chat
template, generation config, licence) unchanged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_plugins.durable import new_folder, write_json
from ptl_plugins.families import Family
from ptl_plugins.live import stored_weights
from ptl_plugins.model_config import read_config
from ptl_plugins.side_files import side_files
from ptl_plugins.types import Subject

GENERATION_CONFIG = "generation_config.json"


def save_live(subject: Subject, folder: Path, *, original: str, extra: Mapping[str, Any]) -> None:
    """Write the live model of `subject` to `folder`, whole or not at all.

    Args:
        subject: a live model whose weights the stored dtype represents exactly.
        folder: the checkpoint's folder; replaced when it is there.
        original: folder or hub name of the original model, the source of the side files.
        extra: further JSON files by name, such as `ptl_pruning.json`.
    """
    assert subject.model is not None
    with new_folder(folder) as temporary:
        with stored_weights(subject.model, subject.stored_dtype):
            subject.model.save_pretrained(temporary)
        (temporary / GENERATION_CONFIG).unlink(missing_ok=True)
        _write_config(temporary / "config.json", read_config(original), subject.family)
        for file in side_files(original):
            shutil.copyfile(file, temporary / file.name)
        for name, value in extra.items():
            write_json(temporary / name, value)
        assert any(temporary.glob("*.safetensors")), "save_pretrained wrote no safetensors"


def _write_config(path: Path, original: dict[str, Any], family: Family) -> None:
    """Keep the original's config but for what pruning changed.

    Trainers leave marks in a live config (`use_cache: false`, special tokens) that are none of
    the pruned model's.
    """
    live = json.loads(path.read_text(encoding="utf-8"))
    fewer_layers = live[family.depth_key] != original[family.depth_key]
    config = {**original, family.width_key: live[family.width_key]}
    config[family.depth_key] = live[family.depth_key]
    for key in (*family.per_layer_keys, *filter(None, [family.window_key])):
        # a list that the original leaves to its default has to be spelled out once layers went
        if key in live and (key in original or fewer_layers):
            config[key] = live[key]
    write_json(path, config)
