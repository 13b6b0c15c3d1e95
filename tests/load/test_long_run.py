"""A run of many rounds: memory, open files, threads and children stay as they were.

fp32 on purpose: in bf16 on a CPU torch's oneDNN keeps a compiled kernel for every width that it
meets, about a megabyte each, which is neither PTL's nor a leak that grows without end.
"""

from __future__ import annotations

import gc
import json

import psutil
import pytest
import torch
import yaml

from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.markers import hookimpl
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import tiny_model, tiny_tokenizer, write_tiny_corpus

WARM_UP = 8
"""Rounds after which everything is imported, and caches and arenas are filled."""
MEGABYTE = 1 << 20
SLACK = 4 * MEGABYTE
"""What the allocator may keep more of at the end, however many the rounds."""
PER_ROUND = MEGABYTE // 32
"""Of memory, in the long run: twice what was seen, from the growing run record. The weights of the
model are 20 times as large: a model that is kept each round shows within the fast test."""


class Meter:
    """Notes what the process holds at the end of each round."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.memory, self.files, self.threads, self.children = [], [], [], []

    @hookimpl
    def ptl_round_finished(self, ctx) -> None:
        gc.collect()
        self.memory.append(self.process.memory_info().rss)
        self.files.append(self.process.num_fds())
        self.threads.append(self.process.num_threads())
        self.children.append(len(self.process.children(recursive=True)))


@pytest.fixture
def run_rounds(tmp_path, monkeypatch):
    """Run that many rounds of one neuron each, with a stage's program and an evaluation."""

    def run(number: int) -> Meter:
        monkeypatch.chdir(tmp_path)
        width = number + 16
        model = tiny_model(
            "llama", dtype=torch.float32, num_hidden_layers=2, intermediate_size=width,
            hidden_size=128,
        )  # fmt: skip
        model.save_pretrained(tmp_path / "model")
        tiny_tokenizer().save_pretrained(tmp_path / "model")
        write_tiny_corpus(tmp_path / "data", num_documents=2 * number)
        del model
        keys = {
            "model": "model",
            "run_dir": "out",
            "data": {"path": "data/tiny.jsonl"},
            "calibration": {"num_sequences": 2, "max_length": 16},
            "schedule": [{"unit": "neuron", "amount": 1, "rounds": number}],
            "recover": [{"backend": "fake"}],
            "keep": {"rounds": "last"},
            "evaluate": {
                "every": 5,
                "tasks": [
                    {"evaluator": "chain_of_thought", "data": "data/held_out.jsonl",
                     "num_problems": 1}
                ],
            },
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        meter = Meter()
        manager.register(meter)
        registry = build_registry(manager)
        run_recipe(read_recipe(tmp_path / "r.yaml", manager.hook, registry), manager, registry)
        return meter

    return run


def require_flat(meter: Meter, number: int) -> None:
    assert len(meter.memory) == number + 1  # with the original
    warm, end = meter.memory[WARM_UP], max(meter.memory[-3:])
    grown = (end - warm) / MEGABYTE
    allowed = (SLACK + PER_ROUND * (number - WARM_UP)) / MEGABYTE
    assert grown < allowed, f"{grown:.1f} MB more than after {WARM_UP} rounds"
    assert set(meter.files[WARM_UP:]) == {meter.files[WARM_UP]}
    assert max(meter.threads[WARM_UP:]) <= meter.threads[WARM_UP]
    assert max(meter.children) <= meter.children[0], "other tests' programs may end meanwhile"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_rounds_hold_no_more_than_eight(run_rounds, tmp_path):
    require_flat(run_rounds(20), 20)
    lines = (tmp_path / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    finished = [json.loads(line) for line in lines]
    assert sum(event["event"] == "round_finished" for event in finished) == 21
    assert not list((tmp_path / "out").rglob("*.ptl-tmp"))


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_two_hundred_rounds_hold_no_more_than_eight(run_rounds):
    require_flat(run_rounds(200), 200)
