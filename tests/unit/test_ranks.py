"""Two real gloo processes against one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ptl_plugins.calibration import batches
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess, current_ranks, main_first, require_equal
from ptl_plugins.scores_file import read_scores
from ptl_plugins.testing import tiny_model

SEQUENCES = [[(5 * i + j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]

WORKER = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
from ptl_plugins.calibration import batches
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import current_ranks, main_first, require_equal
from ptl_plugins.scores_file import write_scores
from ptl_plugins.testing import tiny_model

ranks = current_ranks()
registry = build_registry(build_manager(autoload=False))
statistics = needed_statistics([c for _, c in registry.criteria.items()])
share = json.loads(sys.argv[4])[rank::size]
scores = profile(
    tiny_model("llama"), registry.families.get("llama"),
    batches(share, batch_tokens=20, device=torch.device("cpu")), statistics, ranks,
)
write_scores(folder / f"scores_{rank}.safetensors", scores)
require_equal(ranks, "same", "a")
told = ""
try:
    require_equal(ranks, f"value of {rank}", "what goes")
except AssertionError as error:
    told = str(error)
with main_first(ranks) as main:
    if main:
        (folder / "by_main").write_text("x")
facts = [ranks.rank, ranks.size, ranks.gather({"rank": rank}), told, (folder / "by_main").exists()]
(folder / f"facts_{rank}.json").write_text(json.dumps(facts))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes wrote to."""
    import json

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
def one(registry):
    statistics = needed_statistics([c for _, c in registry.criteria.items()])
    batch_list = batches(SEQUENCES, batch_tokens=20, device=torch.device("cpu"))
    family = registry.families.get("llama")
    return profile(tiny_model("llama"), family, batch_list, statistics, SingleProcess())


def test_merged_statistics_of_two_ranks_equal_those_of_one_process(two, one):
    scores = read_scores(two[0] / "scores_0.safetensors")
    assert set(scores.statistics) == set(one.statistics)
    for name, value in one.statistics.items():
        torch.testing.assert_close(scores.statistics[name], value)
    assert (scores.num_tokens, scores.num_sequences) == (one.num_tokens, one.num_sequences)


def test_both_ranks_hold_the_same_bits(two):
    first, second = (read_scores(two[0] / f"scores_{rank}.safetensors") for rank in range(2))
    for name, value in first.statistics.items():
        assert torch.equal(value, second.statistics[name])


def test_ranks_know_themselves_and_gather_in_order(two):
    for rank, facts in enumerate(two[1]):
        assert facts[:3] == [rank, 2, [{"rank": 0}, {"rank": 1}]]


def test_ranks_that_disagree_are_a_fault_that_shows_all_values(two):
    for facts in two[1]:
        assert facts[3] == "ranks disagree on what goes: ['value of 0', 'value of 1']"


def test_the_other_ranks_go_on_after_the_main_ranks_work(two):
    assert all(facts[4] for facts in two[1])


def test_without_a_process_group_there_is_one_rank():
    ranks = current_ranks()
    tensor = torch.tensor([1.0, 2.0])
    ranks.merge(tensor, "sum")
    ranks.barrier()
    assert (ranks.rank, ranks.size, ranks.gather("x"), tensor.tolist()) == (0, 1, ["x"], [1.0, 2.0])
    with main_first(ranks) as main:
        assert main
    require_equal(ranks, "a", "b")
