"""Second moments: what is gathered, and in how many passes within the memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptl_plugins import second_moments
from ptl_plugins.families import find_family
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.second_moments import MomentFolder, free_memory, layer_groups
from ptl_plugins.testing import TINY, tiny_model

from .conftest import (
    CPU,
    LAYER,
    SEQUENCES,
    STATISTICS,
    assert_equal,
    batches,
    moments_in,
    run,
    tiny,
)


def inputs_by_hand(model):
    """Return the inputs of `down_proj` per layer, one sequence at a time, stacked."""
    found = [[] for _ in model.model.layers]
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda m, args, i=i: found[i].append(args[0][0])
        )
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sequence in SEQUENCES:
            model(input_ids=torch.tensor([sequence]))
    for handle in handles:
        handle.remove()
    return [torch.cat(rows).double() for rows in found]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_a_moment_is_the_product_of_all_real_inputs(registry, tmp_path, name, side):
    model = tiny(name)
    family = find_family(registry, model.config.to_dict())
    folder = MomentFolder(path=tmp_path / "deep" / "moments")
    profile(model, family, batches(side), (), SingleProcess(), moments=folder)
    for layer, inputs in enumerate(inputs_by_hand(model)):
        assert inputs.shape == (35, 48)
        moment = folder.read(layer, 48)
        assert moment.dtype == torch.float32
        torch.testing.assert_close(moment.double(), inputs.T @ inputs, rtol=1e-4, atol=1e-9)
    assert len(list(folder.path.iterdir())) == 5


@pytest.mark.parametrize(
    ("memory", "passes"), [(0, 5), (LAYER, 5), (2 * LAYER, 3), (3 * LAYER - 1, 3), (9 * LAYER, 1)]
)
def test_little_memory_takes_more_passes_and_gives_the_same(whole, tmp_path, memory, passes):
    model, calls = tiny_model("llama"), []
    model.model.register_forward_pre_hook(lambda *args: calls.append(1))
    scores = run(tmp_path / "m", model=model, memory=memory)
    assert len(calls) == passes * len(batches())
    assert_equal(moments_in(tmp_path / "m"), whole[1])
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)


def test_later_passes_stop_behind_their_group(tmp_path):
    model, calls = tiny_model("llama"), []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, args, i=index: calls.append(i))
    run(tmp_path, model=model, memory=2 * LAYER, statistics=(), batch_list=batches()[:1])
    assert calls == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_what_is_there_is_not_made_again(whole, tmp_path):
    run(tmp_path)
    kept = {i: (tmp_path / f"layer_{i:03d}.safetensors").stat().st_mtime_ns for i in (0, 2)}
    for layer in (1, 3, 4):
        (tmp_path / f"layer_{layer:03d}.safetensors").unlink()
    model, calls = tiny_model("llama"), []
    model.model.register_forward_pre_hook(lambda *args: calls.append(1))
    run(tmp_path, model=model, statistics=())
    assert len(calls) == 2 * len(batches()), "layers 1, and 3 with 4"
    assert_equal(moments_in(tmp_path), whole[1])
    for layer, time in kept.items():
        assert (tmp_path / f"layer_{layer:03d}.safetensors").stat().st_mtime_ns == time
    run(tmp_path, model=model, statistics=())
    assert len(calls) == 2 * len(batches()), "nothing was missing"


@pytest.mark.parametrize(
    ("there", "memory", "groups"),
    [
        ((), 2 * LAYER, [range(0, 2), range(2, 4), range(4, 5)]),
        ((1,), 9 * LAYER, [range(0, 1), range(2, 5)]),
        ((0, 3), 2 * LAYER, [range(1, 3), range(4, 5)]),
        ((0, 1, 2, 3, 4), LAYER, []),
    ],
)
def test_groups_are_runs_of_missing_layers(tmp_path, there, memory, groups):
    folder = MomentFolder(path=tmp_path)
    folder.write({str(layer): torch.zeros(48, 48) for layer in there}, SingleProcess())
    assert layer_groups(tiny(), LLAMA, SingleProcess(), folder, memory) == groups


def test_the_tightest_rank_sets_the_size_of_the_groups(tmp_path):
    class Two(SingleProcess):
        def gather(self, value):
            return [value, 2 * LAYER if isinstance(value, int) else ["not asked"]]

    groups = layer_groups(tiny(), LLAMA, Two(), MomentFolder(path=tmp_path), 9 * LAYER)
    assert [len(group) for group in groups] == [2, 2, 1]


def test_free_memory_is_a_share_of_the_machines_among_its_ranks(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(second_moments.psutil, "virtual_memory", Memory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == 100
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert free_memory(CPU) == 400


def test_without_a_folder_no_moment_is_gathered(monkeypatch):
    monkeypatch.setattr("ptl_plugins.profiling.MomentTally", None)
    assert profile(tiny(), LLAMA, batches(), STATISTICS, SingleProcess()).num_tokens == 35


def test_nothing_temporary_is_left(tmp_path):
    run(tmp_path)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        f"layer_{layer:03d}.safetensors" for layer in range(5)
    ]
