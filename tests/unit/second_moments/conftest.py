"""A tiny model's profile with its second moments, and what they are."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.calibration import Batch, pad
from ptl_plugins.criteria.activation import ABS_MAX, ABS_SUM
from ptl_plugins.criteria.layer_change import L2_SUM
from ptl_plugins.criteria.output_change import COLUMN_NORM
from ptl_plugins.criteria.released import SMALLEST
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.testing import tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]
STATISTICS = (ABS_MAX, ABS_SUM, L2_SUM, COLUMN_NORM, *SMALLEST)
LAYER = 4 * 48 * 48
"""Bytes of one layer's moment."""


@functools.cache
def tiny(name="llama"):
    return tiny_model(name)


def batches(side="right"):
    made = [pad(SEQUENCES[i : i + 2], device=CPU) for i in range(0, 5, 2)]
    if side == "right":
        return made
    flipped = []
    for batch in made:
        ids, mask = batch.input_ids.clone(), batch.attention_mask.clone()
        for row in range(len(ids)):
            shift = int((mask[row] == 0).sum())
            ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
        flipped.append(Batch(input_ids=ids, attention_mask=mask))
    return flipped


def run(folder, *, model=None, statistics=STATISTICS, ranks=None, **options):
    """Profile into `folder`; `batch_list` replaces the batches."""
    model = model or tiny()
    moments = folder if isinstance(folder, MomentFolder) else MomentFolder(path=folder)
    batch_list = options.pop("batch_list", None) or batches()
    ranks = ranks or SingleProcess()
    return profile(model, LLAMA, batch_list, statistics, ranks, moments=moments, **options)


def moments_in(path):
    return {file.name: load_file(file)["second_moment"] for file in sorted(path.iterdir())}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Statistics and moments of a profile that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "moments"
    return run(path).statistics, moments_in(path)
