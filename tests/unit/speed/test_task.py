"""The evaluator `speed`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from ptl_plugins.errors import PTLError
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.speed import measure, task
from ptl_plugins.speed.task import Speed
from ptl_plugins.testing import tiny_model, tiny_tokenizer, write_tiny_checkpoint
from ptl_plugins.types import Subject

SMALL = {
    "warmups": 0, "repeats": 2, "new_tokens": 2, "prompt_tokens": 6, "measures": ["decode"],
}  # fmt: skip


class Ranks(SingleProcess):
    """One of two ranks; what the main rank found is given."""

    size = 2

    def __init__(self, rank, of_main=None):
        self.rank = rank
        self.of_main = of_main

    def gather(self, value):
        if self.rank == 0:
            self.of_main = value
        return [self.of_main, value if self.rank else ""]


@pytest.fixture
def subject(registry):
    return Subject(
        family=registry.families.get("llama"),
        model=tiny_model("llama", intermediate_size=16),
        tokenizer=tiny_tokenizer(),
    )


@pytest.fixture
def make_ctx(tmp_path, make_recipe):
    original = str(write_tiny_checkpoint(tmp_path / "original"))
    said: list[str] = []

    def make(ranks=None, model=original):
        return SimpleNamespace(
            recipe=make_recipe(model=model),
            ranks=ranks or SingleProcess(),
            run=RunFolder(tmp_path / "run", writes=True),
            folder=tmp_path / "run/round_01",
            log=SimpleNamespace(say=said.append, step="evaluate"),
            said=said,
        )

    return make


def test_the_live_model_is_measured_against_the_recipes_model(make_ctx, subject):
    metrics = Speed().evaluate(make_ctx(), subject, SMALL)
    assert metrics["speed_decode_speedup"] > 0
    assert metrics["speed_weights_ratio"] > 1
    assert all(type(value) is float for value in metrics.values())
    assert not any("latency" in name for name in metrics)


def test_the_samples_the_machine_and_the_papers_caveat_stay_with_the_round(
    make_ctx, subject, tmp_path
):
    ctx = make_ctx()
    settings = {"protocol": "paper", "warmups": 0, "num_prompts": 2, "max_natural_tokens": 4}
    Speed().evaluate(ctx, subject, settings)
    kept = json.loads((tmp_path / "run/round_01/evaluation/evaluate/speed_paper.json").read_text())
    assert kept["timings"]
    assert kept["machine"]["device"]
    assert "stops earlier looks faster" in kept["protocol"]["caveat"]
    assert any("stops earlier looks faster" in line for line in ctx.said)


def test_a_baseline_of_the_settings_goes_before_the_original(make_ctx, subject, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "other", intermediate_size=16)
    metrics = Speed().evaluate(make_ctx(), subject, {**SMALL, "baseline": str(other)})
    assert metrics["speed_weights_ratio"] == 1


def test_weights_are_measured_as_they_will_be_stored(make_ctx, registry, monkeypatch):
    seen = []

    def note(model, *_):
        seen.append(model.dtype)
        return SimpleNamespace(metrics=dict)

    monkeypatch.setattr(measure, "measure_live", note)
    monkeypatch.setattr(task, "_keep", lambda *_: None)
    model = tiny_model("llama")
    subject = Subject(
        family=registry.families.get("llama"), model=model, tokenizer=tiny_tokenizer(),
        stored_dtype=torch.bfloat16,
    )  # fmt: skip
    Speed().evaluate(make_ctx(), subject, SMALL)
    assert seen == [torch.bfloat16]
    assert model.dtype == torch.float32


def test_the_main_rank_measures_alone_and_all_return_the_same(make_ctx, subject, monkeypatch):
    ranks = Ranks(0)
    found = Speed().evaluate(make_ctx(ranks), subject, SMALL)
    monkeypatch.setattr(measure, "measure_live", None)
    assert Speed().evaluate(make_ctx(Ranks(1, ranks.of_main)), subject, SMALL) == found


def test_an_error_of_the_main_rank_ends_every_rank(make_ctx, subject, tmp_path):
    ranks, gone = Ranks(0), str(tmp_path / "gone")
    with pytest.raises(PTLError, match="no such folder"):
        Speed().evaluate(make_ctx(ranks, gone), subject, SMALL)
    with pytest.raises(PTLError, match="no such folder"):
        Speed().evaluate(make_ctx(Ranks(1, ranks.of_main), gone), subject, SMALL)


def test_a_model_that_is_not_loaded_is_refused(make_ctx, registry, tmp_path):
    with pytest.raises(PTLError, match="needs a live model"):
        Speed().evaluate(
            make_ctx(), Subject(family=registry.families.get("llama"), path=tmp_path), SMALL
        )


def test_good_settings_are_let_through(tmp_path):
    assert Speed().check({}) is None
    assert Speed().check({"protocol": "paper", "warmups": 2}) is None
    assert Speed().check({**SMALL, "baseline": str(tmp_path)}) is None
    assert Speed().check({"baseline": "owner/name"}) is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"repeat": 3}, "unknown key 'repeat' (did you mean 'repeats'?); allowed: protocol"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"protocol": "papr"}, "did you mean 'paper'?"),
        ({"new_tokens": 0}, "new_tokens: 0 is not a whole number of at least 1"),
        ({"measures": ["speed"]}, "measures: 'speed' is unknown"),
        ({"num_prompts": 99}, "99 prompts are wanted and there are 12"),
        ({"baseline": "/no/such/folder"}, "baseline: no such folder: /no/such/folder"),
        ({"baseline": 3}, "baseline: 3 is neither a folder nor the name of a hub model"),
    ],
)
def test_wrong_settings_are_one_line_that_names_the_key(settings, text):
    wrong = Speed().check(settings)
    assert wrong is not None
    assert text in wrong
    assert "\n" not in wrong
