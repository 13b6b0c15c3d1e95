"""PTL's own steps on a live model: a whole round, its files, and where what is left came from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from ptl_plugins import steps
from ptl_plugins.calibration import Batches
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.geometry import geometry
from ptl_plugins.live import decoder_layers, width
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profiling import profile
from ptl_plugins.provenance import FILE, Provenance
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import refit_live
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import SCORES, RunFolder
from ptl_plugins.scores_file import digest, read_scores, write_scores
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model, tiny_tokenizer
from ptl_plugins.text_data import read_texts
from ptl_plugins.types import (
    CalibrationSpec,
    Cut,
    EvaluationSpec,
    EvaluationTask,
    ProtectSpec,
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
        original=geometry(tiny_model("llama").config.to_dict(), LLAMA),
        log=RoundLog(RunFolder(tmp_path, writes=False), 0),
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
    again, about = read_scores(ctx.folder / SCORES)
    assert digest(again) == digest(scores)
    assert about == {}


def test_provenance_is_composed_over_the_rounds(ctx, subject):
    before = [layer.mlp.gate_proj.weight.clone() for layer in subject.model.model.layers]
    for index in (1, 3):  # round 2 cut nothing
        cuts = (NEURONS, LAYER)
        one_round(dataclasses.replace(ctx, spec=RoundSpec(index=index, cuts=cuts)), subject)
    folder = ctx.run.round_folder(3)
    found = Provenance.from_json(json.loads((folder / FILE).read_text(encoding="utf-8")))
    assert len(found.history) == 2
    assert [cut["amount"] for cut in found.history[1]["cuts"]] == [NEURONS.amount, LAYER.amount]
    assert found.history[1]["refit"] == ctx.recipe.refit
    assert found.history[1]["protected"] == (ctx.recipe.protect.top if ctx.recipe.protect else 0)
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


def test_every_rank_takes_its_share_of_the_sequences(ctx, subject):
    class Rank(SingleProcess):
        size = 2

        def __init__(self, rank):
            self.rank = rank

    shares = [
        ctx.hooks.ptl_profile(ctx=dataclasses.replace(ctx, ranks=Rank(rank)), subject=subject)
        for rank in range(2)
    ]
    assert [(s.num_tokens, s.num_sequences) for s in shares] == [(7 + 5, 2), (6 + 4, 2)]


def test_a_part_without_tokens_is_an_error_of_its_round(ctx, subject):
    with pytest.raises(PruneError, match="round 1: no calibration sequence holds a token"):
        ctx.hooks.ptl_profile(ctx=dataclasses.replace(ctx, corpus=Empty()), subject=subject)


def test_checkpoint_subjects_are_left_to_others(ctx, tmp_path):
    subject = Subject(family=LLAMA, path=tmp_path)
    assert steps.ptl_profile(ctx, subject) is None
    assert steps.ptl_prune(ctx, subject, None) is None
    assert steps.ptl_evaluate(ctx, subject) is None


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


def with_recipe(ctx, **keys):
    return dataclasses.replace(ctx, recipe=dataclasses.replace(ctx.recipe, **keys))


def moments_of(ctx):
    return ctx.folder / "second_moments"


def assert_same_weights(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def by_hand(ctx, plan, path, *, refit, dtype=torch.float32):
    """Return a tiny model that is refitted and cut without the steps."""
    model = tiny_model("llama", dtype=dtype)
    batches = Batches(ctx.corpus.calibration(1), batch_tokens=64, device=torch.device("cpu"))
    if refit:
        folder = MomentFolder(path=path)
        profile(model, LLAMA, batches, (), SingleProcess(), moments=folder)
        refit_live(model, LLAMA, plan, folder, SingleProcess())
    prune_live(model, LLAMA, plan)
    return model


def test_a_round_refits_and_leaves_no_second_moments(ctx, subject, tmp_path):
    ctx = with_recipe(ctx, refit="ridge")
    scores = ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    assert len(list(moments_of(ctx).iterdir())) == 5, "the same pass gathers them"
    plan = ctx.hooks.ptl_select(ctx=ctx, scores=scores)
    ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan)
    assert not moments_of(ctx).exists()
    assert_same_weights(subject.model, by_hand(ctx, plan, tmp_path / "m", refit=True))


def test_without_a_refit_no_moment_is_gathered_and_the_columns_stay(ctx, subject, tmp_path):
    ctx = with_recipe(ctx, refit="none")
    scores = ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    assert [path.name for path in ctx.folder.iterdir()] == [SCORES]
    plan = ctx.hooks.ptl_select(ctx=ctx, scores=scores)
    ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan)
    assert_same_weights(subject.model, by_hand(ctx, plan, tmp_path / "m", refit=False))


def test_a_round_that_cuts_layers_alone_gathers_no_moment(ctx, subject, monkeypatch):
    monkeypatch.setattr("ptl_plugins.profiling.MomentTally", None)
    ctx = with_recipe(
        ctx, refit="ridge", protect=ProtectSpec(data="x", column="y", top=9, num_sequences=9)
    )
    ctx = dataclasses.replace(ctx, spec=RoundSpec(index=1, cuts=(LAYER,)))
    scores, plan = one_round(ctx, subject)
    assert (plan.removed_neurons, plan.new_num_layers, scores.protect) == ((), 4, None)
    assert not moments_of(ctx).exists()


def test_a_round_in_which_no_neuron_is_low_enough_leaves_no_second_moments(ctx, subject):
    none = dataclasses.replace(NEURONS, selector="threshold", amount=1e-30)
    ctx = dataclasses.replace(ctx, spec=RoundSpec(index=1, cuts=(none,)))
    _, plan = one_round(with_recipe(ctx, refit="ridge"), subject)
    assert plan.removed_neurons == ()
    assert not moments_of(ctx).exists()


@pytest.mark.parametrize("left", [(), (1, 4)])
def test_a_resumed_round_ends_in_the_same_bits(ctx, subject, left):
    """The plan is on disk and the moments are not, or not all: a kill lost them."""
    ctx = with_recipe(ctx, refit="ridge")
    scores = ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    plan = ctx.hooks.ptl_select(ctx=ctx, scores=scores)
    for layer in set(range(5)) - set(left):
        MomentFolder(path=moments_of(ctx)).file(layer).unlink()
    if not left:
        moments_of(ctx).rmdir()
    again = Subject(family=LLAMA, model=tiny_model("llama"), stored_dtype=torch.float32)
    ctx.hooks.ptl_prune(ctx=ctx, subject=again, plan=plan)
    assert not moments_of(ctx).exists()
    ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    ctx.hooks.ptl_prune(ctx=ctx, subject=subject, plan=plan)
    assert_same_weights(again.model, subject.model)


def test_fp32_copies_are_refitted_as_the_bf16_model_that_is_stored(ctx, tmp_path):
    ctx, copy = with_recipe(ctx, refit="ridge"), tiny_model("llama", dtype=torch.bfloat16)
    for parameter in copy.parameters():
        parameter.data = parameter.data.float()
    subject = Subject(family=LLAMA, model=copy, stored_dtype=torch.bfloat16)
    _, plan = one_round(ctx, subject)
    expected = by_hand(ctx, plan, tmp_path / "m", refit=True, dtype=torch.bfloat16)
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert_same_weights(copy, expected.float())


@pytest.fixture
def english(ctx, subject, tmp_path):
    """A context whose recipe protects 9 neurons by a second corpus, and a subject that reads."""
    texts = [f"Once upon a time there were {i} bears. {{They}} slept. " * 3 for i in range(9)]
    rows = "\n".join(json.dumps({"story": text}) for text in texts)
    (tmp_path / "stories.jsonl").write_text(rows, encoding="utf-8")
    spec = ProtectSpec(data=str(tmp_path / "stories.jsonl"), column="story", top=9, num_sequences=6)
    reader = dataclasses.replace(subject, tokenizer=tiny_tokenizer())
    return with_recipe(ctx, protect=spec), reader


def test_what_the_second_corpus_needs_most_is_protected(english):
    ctx, subject = english
    many = dataclasses.replace(NEURONS, amount=39)
    ctx = dataclasses.replace(ctx, spec=RoundSpec(index=1, cuts=(many,)))
    scores, plan = one_round(ctx, subject)
    needed = scores.protect.statistics["neuron_abs_max"].argsort(axis=-1)[:, -9:]
    for gone, row in zip(plan.removed_neurons, needed.tolist(), strict=True):
        assert set(gone) == set(range(48)) - set(row), "all but the 9 go"


def test_protection_changes_what_goes(english):
    ctx, subject = english
    scores = ctx.hooks.ptl_profile(ctx=ctx, subject=subject)
    plans = [
        ctx.hooks.ptl_select(ctx=with_recipe(ctx, protect=spec), scores=scores)
        for spec in (ctx.recipe.protect, dataclasses.replace(ctx.recipe.protect, top=40), None)
    ]
    assert len({plan.digest() for plan in plans}) > 1


def test_the_second_corpus_is_profiled_as_the_recipe_says(english):
    """As many texts as it says, chosen by its seed, for the neuron criterion's statistics."""
    ctx, subject = english
    digests = []
    for seed in (0, 1):
        scores = ctx.hooks.ptl_profile(ctx=with_recipe(ctx, seed=seed), subject=subject)
        texts = read_texts(ctx.recipe.protect.data, column="story", number=6, seed=seed)
        ids = [subject.tokenizer(text)["input_ids"] for text in texts]
        batches = Batches(ids, batch_tokens=64, device=torch.device("cpu"))
        statistics = ctx.registry.criteria.get("activation_max").statistics
        expected = profile(subject.model, LLAMA, batches, statistics, SingleProcess())
        assert digest(scores.protect) == digest(expected)
        digests.append(digest(expected))
    assert digests[0] != digests[1]


@pytest.mark.parametrize(("max_length", "tokens"), [(None, 6 * 5), (7, 6 * 7)])
def test_protected_texts_are_cut_to_the_calibrations_length(
    english, monkeypatch, max_length, tokens
):
    monkeypatch.setattr("ptl_plugins.steps.PROTECT_MAX_LENGTH", 5)
    ctx, subject = english
    spec = CalibrationSpec(num_sequences=4, max_length=max_length, batch_tokens=64)
    scores = ctx.hooks.ptl_profile(ctx=with_recipe(ctx, calibration=spec), subject=subject)
    assert scores.protect.num_tokens == tokens


def test_protected_scores_are_on_disk_and_part_of_the_digest(english):
    ctx, subject = english
    scores, plan = one_round(ctx, subject)
    again, _ = read_scores(ctx.folder / SCORES)
    assert digest(again) == digest(scores) == plan.scores_digest
    assert digest(again) != digest(dataclasses.replace(again, protect=None))
    for name, value in scores.protect.statistics.items():
        np.testing.assert_array_equal(again.protect.statistics[name], value)


def test_scores_come_back_as_they_were_with_the_same_digest(tmp_path):
    rng = np.random.default_rng(0)
    statistics = {
        "b": rng.random((4, 3), dtype=np.float32).T,
        "a": rng.random(3, dtype=np.float32),
    }
    scores = Scores(statistics=statistics, num_layers=3, width=4, num_tokens=7, num_sequences=2)
    write_scores(tmp_path / "s.safetensors", scores, {"model_digest": "x"})
    again, about = read_scores(tmp_path / "s.safetensors")
    assert digest(again) == digest(scores)
    assert about == {"model_digest": "x"}
    assert (again.num_layers, again.width, again.num_tokens, again.num_sequences) == (3, 4, 7, 2)
    for name, value in statistics.items():
        np.testing.assert_array_equal(again.statistics[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


ONES = np.ones(3, dtype=np.float32)


@pytest.mark.parametrize("change", [{"num_tokens": 8}, {"statistics": {"a": ONES + 2.0**-20}}])
def test_other_scores_have_another_digest(change):
    scores = Scores(statistics={"a": ONES}, num_layers=3, width=4, num_tokens=7, num_sequences=2)
    assert digest(dataclasses.replace(scores, **change)) != digest(scores)
