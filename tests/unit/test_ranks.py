"""Two real gloo processes against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess, current_ranks, main_first, require_equal
from ptl_plugins.refit import refit_live
from ptl_plugins.scores_file import read_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.testing import tiny_model

SEQUENCES = [[(5 * i + j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]

WORKER = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
from safetensors.torch import save_file
from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import current_ranks, main_first, require_equal
from ptl_plugins.refit import refit_live
from ptl_plugins.scores_file import write_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.testing import tiny_model
from ptl_plugins.types import PrunePlan

ranks = current_ranks()
registry = build_registry(build_manager(autoload=False))
statistics = needed_statistics([c for _, c in registry.criteria.items()])
share = json.loads(sys.argv[4])[rank::size]
model, moments = tiny_model("llama"), MomentFolder(path=folder / "moments")
memory = (2, 4)[rank] * 4 * 48 * 48  # the tightest rank decides: two layers at a time
calls = []
handle = model.model.register_forward_pre_hook(lambda *args: calls.append(1))
batches = Batches(share, batch_tokens=20, device=torch.device("cpu"))
scores = profile(model, LLAMA, batches, statistics, ranks, moments=moments, memory=memory)
handle.remove()
write_scores(folder / f"scores_{rank}.safetensors", scores)
plan = PrunePlan(
    num_layers=5, width=48, removed_neurons=((1, 5, 40),) * 5, removed_layers=(2,), criteria={},
    scores_digest="",
)
reads = []
read = MomentFolder.read
MomentFolder.read = lambda *args: reads.append(1) or read(*args)
refit_live(model, LLAMA, plan, moments, ranks)
weights = {str(i): layer.mlp.down_proj.weight for i, layer in enumerate(model.model.layers)}
save_file(weights, folder / f"weights_{rank}.safetensors")
require_equal(ranks, "same", "a")
told = ""
try:
    require_equal(ranks, f"value of {rank}", "what goes")
except AssertionError as error:
    told = str(error)
with main_first(ranks) as main:
    if main:
        (folder / "by_main").write_text("x")
facts = {
    "self": [ranks.rank, ranks.size], "gathered": ranks.gather({"rank": rank}), "told": told,
    "by_main": (folder / "by_main").exists(), "reads": len(reads),
    "passes": len(calls) / len(batches),
}
(folder / f"facts_{rank}.json").write_text(json.dumps(facts))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # at the interpreter's own end gloo's threads may abort it: not what is tested
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes wrote to."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-c", WORKER]
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder), json.dumps(SEQUENCES)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=50)[1] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    facts = [json.loads((folder / f"facts_{rank}.json").read_text()) for rank in range(2)]
    return folder, facts


@pytest.fixture(scope="module")
def one(registry, tmp_path_factory):
    """Scores, second moments and refitted weights of one process."""
    statistics = needed_statistics([c for _, c in registry.criteria.items()])
    batches = Batches(SEQUENCES, batch_tokens=20, device=torch.device("cpu"))
    model, moments = tiny_model("llama"), MomentFolder(path=tmp_path_factory.mktemp("one"))
    scores = profile(model, LLAMA, batches, statistics, SingleProcess(), moments=moments)
    return scores, model, moments


def test_merged_statistics_of_two_ranks_equal_those_of_one_process(two, one):
    scores, _ = read_scores(two[0] / "scores_0.safetensors")
    assert set(scores.statistics) == set(one[0].statistics)
    for name, value in one[0].statistics.items():
        np.testing.assert_allclose(scores.statistics[name], value, rtol=1e-5, atol=1e-7)
    assert (scores.num_tokens, scores.num_sequences) == (one[0].num_tokens, one[0].num_sequences)


def test_both_ranks_hold_the_same_bits(two):
    first, second = (read_scores(two[0] / f"scores_{rank}.safetensors")[0] for rank in range(2))
    for name, value in first.statistics.items():
        np.testing.assert_array_equal(value, second.statistics[name])


def test_second_moments_of_two_ranks_are_those_of_one_process(two, one):
    folder = MomentFolder(path=two[0] / "moments")
    assert len(list(folder.path.iterdir())) == 5
    for layer in range(5):
        torch.testing.assert_close(folder.read(layer, 48), one[2].read(layer, 48))


def test_all_ranks_take_the_groups_that_fit_into_the_tightest(two):
    assert [facts["passes"] for facts in two[1]] == [3, 3]


def test_both_ranks_get_the_same_refitted_weights(two, one, make_plan):
    first, second = (load_file(two[0] / f"weights_{rank}.safetensors") for rank in range(2))
    _, model, moments = one
    before = [layer.mlp.down_proj.weight.clone() for layer in model.model.layers]
    plan = make_plan(model, LLAMA, neurons=(1, 5, 40), layers=(2,))
    refit_live(model, LLAMA, plan, moments, SingleProcess())
    for index, layer in enumerate(model.model.layers):
        assert torch.equal(first[str(index)], second[str(index)])
        torch.testing.assert_close(first[str(index)], layer.mlp.down_proj.weight.detach())
        assert torch.equal(first[str(index)], before[index]) is (index == 2)


def test_only_the_main_rank_reads_the_second_moments(two):
    assert [facts["reads"] for facts in two[1]] == [4, 0]


def test_ranks_know_themselves_and_gather_in_order(two):
    for rank, facts in enumerate(two[1]):
        assert facts["self"] == [rank, 2]
        assert facts["gathered"] == [{"rank": 0}, {"rank": 1}]


def test_ranks_that_disagree_are_a_fault_that_shows_all_values(two):
    for facts in two[1]:
        assert facts["told"] == "ranks disagree on what goes: ['value of 0', 'value of 1']"


def test_the_other_ranks_go_on_after_the_main_ranks_work(two):
    assert all(facts["by_main"] for facts in two[1])


def test_without_a_process_group_there_is_one_rank():
    ranks = current_ranks()
    tensor = torch.tensor([1.0, 2.0])
    ranks.merge(tensor, "sum")
    ranks.barrier()
    assert (ranks.rank, ranks.size, ranks.gather("x"), tensor.tolist()) == (0, 1, ["x"], [1.0, 2.0])
    with main_first(ranks) as main:
        assert main
    require_equal(ranks, "a", "b")
