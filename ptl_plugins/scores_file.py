"""Scores on disk: safetensors with the facts of the pass as metadata; no torch needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ptl_plugins.durable import TEMPORARY_SUFFIX, replace
from ptl_plugins.errors import PruneError
from ptl_plugins.types import Scores

FACTS = ("num_layers", "width", "num_tokens", "num_sequences")
PROTECT = "protect."
"""Prefix of the statistics and facts of the second corpus."""


def write_scores(path: Path, scores: Scores, about: Mapping[str, str] | None = None) -> None:
    """Write the statistics atomically.

    Args:
        path: the file.
        scores: what was measured.
        about: further facts, such as `model_digest` and `data_digest`.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    tensors, facts = _flat(scores)
    if scores.protect is not None:
        more_tensors, more_facts = _flat(scores.protect)
        tensors |= {PROTECT + name: tensor for name, tensor in more_tensors.items()}
        facts |= {PROTECT + name: fact for name, fact in more_facts.items()}
    save_file(tensors, os.fspath(temporary), {**(about or {}), **facts})
    replace(temporary, path)


def read_scores(path: Path) -> tuple[Scores, dict[str, str]]:
    """Return the scores and the further facts that `write_scores` was given.

    Raises:
        PruneError: the file is missing, damaged, or no scores file.
    """
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise PruneError(
            f"{path}: cannot be read as scores ({error}); make them with 'ptl profile'"
        ) from error
    if missing := [name for name in FACTS if name not in about]:
        raise PruneError(
            f"{path}: is no scores file, its metadata lacks '{missing[0]}'; "
            "make one with 'ptl profile'"
        )
    second = {n.removeprefix(PROTECT): t for n, t in tensors.items() if n.startswith(PROTECT)}
    first = {name: t for name, t in tensors.items() if not name.startswith(PROTECT)}
    protect = _scores(second, about, PROTECT, None) if second else None
    scores = _scores(first, about, "", protect)
    return scores, {k: v for k, v in about.items() if k.removeprefix(PROTECT) not in FACTS}


def digest(scores: Scores) -> str:
    """Return the SHA-256 of the statistics and facts, equal wherever they are equal."""
    total = hashlib.sha256(json.dumps({n: getattr(scores, n) for n in FACTS}).encode())
    for name in sorted(scores.statistics):
        total.update(name.encode())
        total.update(np.ascontiguousarray(scores.statistics[name]).tobytes())
    if scores.protect is not None:
        total.update(digest(scores.protect).encode())
    return total.hexdigest()


def _flat(scores: Scores) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    tensors = {name: np.ascontiguousarray(t) for name, t in scores.statistics.items()}
    return tensors, {name: str(getattr(scores, name)) for name in FACTS}


def _scores(
    statistics: dict[str, NDArray[np.float32]],
    about: Mapping[str, str],
    prefix: str,
    protect: Scores | None,
) -> Scores:
    facts = {name: int(about[prefix + name]) for name in FACTS}
    for name, tensor in statistics.items():
        if tensor.shape not in ((facts["num_layers"], facts["width"]), (facts["num_layers"],)):
            raise PruneError(
                f"statistic '{name}' has shape {list(tensor.shape)}, but the scores are of "
                f"{facts['num_layers']} layers of {facts['width']} neurons; profile again"
            )
    return Scores(statistics=statistics, **facts, protect=protect)
