"""FLOPs of the recorded shapes, from the config of the run's model; checked against the records."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ptl_plugins.errors import PTLError
from ptl_plugins.families import find_family
from ptl_plugins.geometry import SLICED, Geometry, geometry
from ptl_plugins.given_path import is_folder
from ptl_plugins.model_config import looks_like_path, read_config
from ptl_plugins.registry import Registry
from ptl_plugins.run_folder import MODEL
from ptl_plugins.types import RoundRecord

CONFIG = "config.json"


def flops_ratios(
    folder: Path,
    records: Sequence[RoundRecord],
    registry: Registry,
    *,
    model: str,
    family: str | None,
) -> dict[int, float]:
    """Return FLOPs per token of each round relative to the original, round 0.

    A checkpoint of the run tells the sizes as well as the original, which may have been moved.

    Args:
        folder: the run folder.
        records: what the run recorded.
        registry: where families are found by name.
        model: the recipe's model, asked where the run left no checkpoint.
        family: the recipe's family.

    Raises:
        PTLError: no config can be read, it is of another model than the records, or the original
            is not recorded.
    """
    if not records or records[0].round != 0:
        raise PTLError("the original is not recorded")
    source = _source(folder, model)
    config = read_config(source)
    sizes = geometry(config, find_family(registry, config, family))
    cuts = ((record.round, cut.unit) for record in records for cut in record.cuts)
    sliced = min((index for index, unit in cuts if unit == "hidden"), default=len(records))
    shapes = {r.round: _shape(sizes, r, source, sliced=r.round >= sliced) for r in records}
    return {index: s.flops_per_token / shapes[0].flops_per_token for index, s in shapes.items()}


def _shape(sizes: Geometry, record: RoundRecord, source: str, *, sliced: bool) -> Geometry:
    shape = sizes.after(width=record.width, num_layers=record.num_layers)
    if sliced:
        shape = shape.sliced(record.hidden or _hidden_by_parameters(shape, record.num_parameters))
    if shape.num_parameters != record.num_parameters:
        raise PTLError(
            f"model '{source}' has {shape.num_parameters:,} parameters in the shape of round "
            f"{record.round}, but {record.num_parameters:,} are recorded: it is another model"
        )
    return shape


def _hidden_by_parameters(shape: Geometry, parameters: int) -> int:
    """Return the hidden size of a record that does not tell it, as those of earlier versions."""
    least = partial(_sliced_parameters, shape)
    return 1 + bisect.bisect_left(range(1, shape.hidden), parameters, key=least)


def _sliced_parameters(shape: Geometry, hidden: int) -> int:
    return shape.sliced(hidden).num_parameters


def _source(folder: Path, model: str) -> str:
    """Return the first checkpoint of the run that is still there, or the recipe's model.

    A sliced one does not tell the sizes before.
    """
    rounds = [path / MODEL for path in sorted(folder.glob("round_*"))]
    there = (path for path in (*rounds, folder) if (path / CONFIG).is_file())
    left = (path for path in there if read_config(str(path)).get("model_type") != SLICED)
    found = next(left, None)
    return str(found) if found else _original(model)


def _original(model: str) -> str:
    """Return the folder of the recipe's model; a hub model's in the cache, none is downloaded."""
    if is_folder(model) or looks_like_path(model):
        return model
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, CONFIG)
    except ValueError:  # not even a name of the hub
        cached = None
    if not isinstance(cached, str):
        raise PTLError(f"model '{model}' is neither a folder nor in the cache of the hub")
    return str(Path(cached).parent)
