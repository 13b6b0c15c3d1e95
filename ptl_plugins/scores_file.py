"""Scores on disk: safetensors with the facts of the pass as metadata; no torch needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ptl_plugins.errors import PruneError
from ptl_plugins.tensor_file import metadata_of, save_tensors
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

    Raises:
        PTLError: the file cannot be written.
    """
    tensors, facts = _flat(scores)
    if scores.protect is not None:
        more_tensors, more_facts = _flat(scores.protect)
        tensors |= {PROTECT + name: tensor for name, tensor in more_tensors.items()}
        facts |= {PROTECT + name: fact for name, fact in more_facts.items()}
    save_tensors(path, tensors, {**(about or {}), **facts})


def read_scores(path: Path) -> tuple[Scores, dict[str, str]]:
    """Return the scores and the further facts that `write_scores` was given.

    Raises:
        PruneError: the file is missing, damaged, or no scores file.
    """
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            about = {key: str(value) for key, value in metadata_of(file).items()}
            _facts(path, about, "")  # before the tensors: a model's weights would be large
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:  # a dtype numpy lacks
        raise PruneError(
            f"{path}: cannot be read as scores ({error}); make them with 'ptl profile'"
        ) from error
    second = {n.removeprefix(PROTECT): t for n, t in tensors.items() if n.startswith(PROTECT)}
    first = {name: t for name, t in tensors.items() if not name.startswith(PROTECT)}
    scores = _scores(path, first, about, "")
    if second or PROTECT + FACTS[0] in about:
        scores = replace(scores, protect=_scores(path, second, about, PROTECT))
        _require_one_model(path, scores)
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


def _facts(path: Path, about: Mapping[str, str], prefix: str) -> dict[str, int]:
    """Return the facts of a corpus.

    Raises:
        PruneError: one is missing or no number.
    """
    wrong = [name for name in FACTS if not about.get(prefix + name, "").isdecimal()]
    if wrong:
        raise PruneError(
            f"{path}: is no scores file, its metadata has no number '{prefix + wrong[0]}'; "
            "make one with 'ptl profile'"
        )
    return {name: int(about[prefix + name]) for name in FACTS}


def _scores(
    path: Path, statistics: dict[str, NDArray[np.float32]], about: Mapping[str, str], prefix: str
) -> Scores:
    facts = _facts(path, about, prefix)
    for name, tensor in statistics.items():
        if tensor.shape not in ((facts["num_layers"], facts["width"]), (facts["num_layers"],)):
            raise PruneError(
                f"{path}: statistic '{prefix + name}' has shape {list(tensor.shape)}, but the "
                f"scores are of {facts['num_layers']} layers of {facts['width']} neurons; "
                "profile again"
            )
    return Scores(statistics=statistics, **facts, protect=None)


def _require_one_model(path: Path, scores: Scores) -> None:
    assert scores.protect is not None
    first, second = ((s.num_layers, s.width) for s in (scores, scores.protect))
    if first != second:
        raise PruneError(
            f"{path}: the protect set's scores are of {second[0]} layers of {second[1]} neurons, "
            f"the others of {first[0]} of {first[1]}; profile again"
        )
