"""PTL's own steps on a live model: a whole round, its files, and where what is left came from."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.live import decoder_layers, width
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.provenance import FILE, Provenance
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.run_folder import SCORES, RunFolder
from ptl_plugins.scores_file import digest, read_scores, write_scores
from ptl_plugins.testing import tiny_model
from ptl_plugins.types import (
    Cut,
    EvaluationSpec,
    EvaluationTask,
    RoundContext,
    RoundSpec,
    Scores,
    Subject,
)

NEURONS = Cut(unit="neuron", criterion="activation_max", selector="count", amount=3)
LAYER = Cut(unit="layer", criterion="l2", selector="count", amount=1)


class Corpus:
    """Other sequences in every round."""

    def calibration(self, round_index):
        return [[(round_index * 31 + 5 * i + j) % 250 + 4 for j in range(4 + i)] for i in range(4)]


class Empty:
    """A part without a token."""

    def calibration(self, round_index):
        return [[], []]


class Evaluator:
    """Measures one number under a fixed name."""

    def __init__(self, name):
        self.name = name

    def check(self, settings):
        return None

    def evaluate(self, ctx, subject, settings):
        return {self.name: settings["value"]}


@pytest.fixture
def ctx(make_recipe, tmp_path):
    manager = build_manager(autoload=False)
    registry = build_registry(manager)
    return RoundContext(
        spec=RoundSpec(index=1, cuts=(NEURONS, LAYER)),
        recipe=make_recipe(),
        run=RunFolder(tmp_path / "run", writes=True),
        registry=registry,
        corpus=Corpus(),
        ranks=SingleProcess(),
        hooks=manager.hook,
        original_width=48,
        original_num_layers=5,
    )


@pytest.fixture
def subject():
    return Subject(family=LLAMA, model=tiny_model("llama"), stored_dtype=torch.float32)


def one_round(ctx, subject):
    scores = ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    plan = ctx.hooks.ptl_select(ctx=ctx, scores=scores)
    assert ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan) is subject
    return scores, plan


def test_a_round_cuts_the_live_model_by_its_own_scores(ctx, subject):
    scores, plan = one_round(ctx, subject)
    assert (width(subject.model, LLAMA), len(decoder_layers(subject.model, LLAMA))) == (45, 4)
    importance = scores.statistics["neuron_abs_max"]
    for row, gone in zip(importance.tolist(), plan.removed_neurons, strict=True):
        kept = [value for i, value in enumerate(row) if i not in gone]
        assert max(row[i] for i in gone) <= min(kept)
    assert plan.scores_digest == digest(scores)


def test_the_scores_of_a_round_are_on_disk(ctx, subject):
    scores, _ = one_round(ctx, subject)
    assert digest(read_scores(ctx.folder / SCORES)) == digest(scores)


def test_provenance_is_composed_over_the_rounds(ctx, subject):
    before = [layer.mlp.gate_proj.weight.clone() for layer in subject.model.model.layers]
    for index in (1, 3):  # round 2 cut nothing
        cuts = (NEURONS, LAYER)
        one_round(dataclasses.replace(ctx, spec=RoundSpec(index=index, cuts=cuts)), subject)
    folder = ctx.run.round_folder(3)
    found = Provenance.from_json(json.loads((folder / FILE).read_text(encoding="utf-8")))
    assert len(found.history) == 2
    for layer, index, rows in zip(
        subject.model.model.layers, found.layers, found.neurons, strict=True
    ):
        assert torch.equal(layer.mlp.gate_proj.weight, before[index][list(rows)])


def test_scores_do_not_depend_on_the_dtype_that_training_keeps(ctx):
    """fp32 copies of a bf16 model are profiled as the bf16 model that is saved."""
    stored = tiny_model("llama", dtype=torch.bfloat16)
    copy = tiny_model("llama", dtype=torch.bfloat16)
    for parameter in copy.parameters():
        parameter.data = parameter.data.float()
    results = [
        ctx.hooks.ptl_profile(
            ctx=ctx, subject=Subject(family=LLAMA, model=model, stored_dtype=torch.bfloat16)
        )
        for model in (stored, copy)
    ]
    assert digest(results[0]) == digest(results[1])
    assert {p.dtype for p in copy.parameters()} == {torch.float32}


def test_a_part_without_tokens_is_an_error_of_its_round(ctx, subject):
    with pytest.raises(PruneError, match="round 1: no calibration sequence holds a token"):
        ctx.hooks.ptl_profile(ctx=dataclasses.replace(ctx, corpus=Empty()), subject=subject)


def test_checkpoint_subjects_are_left_to_others(ctx, tmp_path):
    subject = Subject(family=LLAMA, path=tmp_path)
    assert ctx.hooks.ptl_profile(ctx=ctx, subject=subject) is None
    assert ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=None) is None


@pytest.fixture
def evaluated(ctx, subject):
    """Evaluate two tasks whose metrics have the given names."""

    def run(*names):
        registry = build_registry_of(names)
        tasks = tuple(
            EvaluationTask(evaluator=f"task-{i}", settings={"value": float(i)})
            for i in range(len(names))
        )
        spec = EvaluationSpec(tasks=tasks, every=1, before_recovery=False)
        recipe = dataclasses.replace(ctx.recipe, evaluation=spec)
        ours = dataclasses.replace(ctx, recipe=recipe, registry=registry)
        return ctx.hooks.ptl_evaluate(ctx=ours, subject=subject)

    return run


def build_registry_of(names):
    from ptl_plugins.registry import Registry

    registry = Registry()
    for index, name in enumerate(names):
        registry.evaluators.add(f"task-{index}", Evaluator(name))
    return registry


def test_every_task_of_the_recipe_is_measured(evaluated):
    assert evaluated("a", "b").metrics == {"a": 0.0, "b": 1.0}


def test_two_tasks_with_one_metric_are_refused(evaluated):
    with pytest.raises(PTLError, match="'task-1': a task before it measured 'a' too"):
        evaluated("a", "a")


def test_scores_come_back_as_they_were_with_the_same_digest(tmp_path):
    statistics = {"b": torch.rand(3, 4).t(), "a": torch.rand(3)}
    scores = Scores(statistics=statistics, num_layers=3, width=4, num_tokens=7, num_sequences=2)
    write_scores(tmp_path / "s.safetensors", scores)
    again = read_scores(tmp_path / "s.safetensors")
    assert digest(again) == digest(scores)
    assert (again.num_layers, again.width, again.num_tokens, again.num_sequences) == (3, 4, 7, 2)
    assert all(torch.equal(again.statistics[name], statistics[name]) for name in statistics)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize("change", [{"num_tokens": 8}, {"statistics": {"a": torch.ones(3) + 1e-7}}])
def test_other_scores_have_another_digest(change):
    scores = Scores(
        statistics={"a": torch.ones(3)}, num_layers=3, width=4, num_tokens=7, num_sequences=2
    )
    assert digest(dataclasses.replace(scores, **change)) != digest(scores)
