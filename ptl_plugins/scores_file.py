"""Scores on disk: safetensors with the facts of the pass as metadata."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace
from ptl_plugins.types import Scores

FACTS = ("num_layers", "width", "num_tokens", "num_sequences")


def write_scores(path: Path, scores: Scores) -> None:
    """Write the statistics atomically."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    metadata = {name: str(getattr(scores, name)) for name in FACTS}
    save_file(
        {name: tensor.contiguous() for name, tensor in scores.statistics.items()},
        os.fspath(temporary),
        metadata,
    )
    replace(temporary, path)


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote."""
    with safe_open(os.fspath(path), framework="pt") as file:
        statistics = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = {name: int(file.metadata()[name]) for name in FACTS}
    return Scores(statistics=statistics, **facts)


def digest(scores: Scores) -> str:
    """Return the SHA-256 of the statistics and facts, equal wherever they are equal."""
    total = hashlib.sha256(json.dumps({n: getattr(scores, n) for n in FACTS}).encode())
    for name in sorted(scores.statistics):
        total.update(name.encode())
        total.update(scores.statistics[name].contiguous().numpy().tobytes())
    return total.hexdigest()
