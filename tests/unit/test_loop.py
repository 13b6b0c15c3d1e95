"""Algorithm 1 driven through an in-memory plugin that notes every call."""

from __future__ import annotations

import json
import logging
import time

import pytest

from ptl_plugins import hookimpl
from ptl_plugins.errors import PluginError
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.geometry import Geometry
from ptl_plugins.loop import prune_tune_loop
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import (
    Cut,
    EvalResult,
    EvaluationSpec,
    EvaluationTask,
    PrunePlan,
    RoundContext,
    RoundSpec,
    Subject,
)

CUT = Cut(unit="neuron", criterion="activation_max", selector="count", amount=2.0)
ORIGINAL = Geometry(
    num_layers=5, width=48, hidden=8, vocabulary=9, tied=True, layer_fixed=1, per_neuron=24
)
ALONE = SingleProcess()


class Model:
    """Stands for a live model: a width that shrinks, and what happened to it."""

    def __init__(self, width=48):
        self.width = width


class Fake:
    """Answers every step and notes it; `dies_in` raises there, once."""

    def __init__(self, dies_in=None):
        self.calls = []
        self.dies_in = dies_in
        self.finished = []
        self.models = []

    def note(self, ctx, what):
        self.calls.append(f"{what} {ctx.spec.index}")
        if self.calls[-1] == self.dies_in:
            self.dies_in = None
            raise KeyboardInterrupt

    @hookimpl
    def ptl_profile(self, ctx, subject):
        self.note(ctx, "profile")
        return f"scores of width {subject.model.width}"

    @hookimpl
    def ptl_select(self, ctx, scores):
        self.note(ctx, "select")
        width = int(scores.split()[-1])
        return PrunePlan(
            num_layers=5,
            width=width,
            removed_neurons=((0, 1),) * 5,
            removed_layers=(),
            criteria={"neuron": "activation_max"},
            scores_digest=scores,
        )

    @hookimpl
    def ptl_prune(self, ctx, subject, plan):
        self.note(ctx, "prune")
        assert subject.model.width == plan.width
        return Subject(family=LLAMA, model=Model(plan.new_width))

    @hookimpl
    def ptl_recover(self, ctx, stage, subject):
        self.note(ctx, f"recover with {stage.backend}")
        self.models.append(subject.model.width)
        return subject

    @hookimpl
    def ptl_evaluate(self, ctx, subject):
        self.note(ctx, "evaluate")
        return EvalResult(metrics={"width": float(subject.model.width)}, seconds=0.0)

    @hookimpl
    def ptl_round_finished(self, ctx, record):
        on_disk = json.loads((ctx.folder / "record.json").read_text(encoding="utf-8"))
        assert on_disk["round"] == record.round == ctx.spec.index
        self.note(ctx, "finished")

    @hookimpl
    def ptl_run_finished(self, run):
        self.finished.append(run)


def describe(subject):
    return {"num_layers": 5, "width": subject.model.width, "num_parameters": 100}


@pytest.fixture
def start(make_recipe, tmp_path):
    """Run the loop with the given plugins; the folder is that of the test."""

    def run(*plugins, width=48, ranks=ALONE, **keys):
        manager = build_manager(autoload=False, plugins=["no:steps"])
        for index, plugin in enumerate(plugins):
            manager.register(plugin, f"plugin-{index}")
        recipe = make_recipe(**keys)
        folder = RunFolder(tmp_path / "run", writes=True)
        folder.open(recipe, {})
        ctx = RoundContext(
            spec=RoundSpec(index=0, cuts=()),
            recipe=recipe,
            run=folder,
            registry=build_registry(manager),
            corpus=None,
            ranks=ranks,
            hooks=manager.hook,
            original=ORIGINAL,
            log=RoundLog(folder, 0),
        )
        try:
            return folder, prune_tune_loop(ctx, Subject(family=LLAMA, model=Model(width)), describe)
        finally:
            folder._lock.release()

    return run


def test_the_steps_of_every_round_come_in_the_order_of_algorithm_1(start):
    fake = Fake()
    folder, last = start(fake)
    steps = ["profile", "select", "prune", "recover with fake", "evaluate", "finished"]
    assert fake.calls == [
        "evaluate 0",
        "finished 0",
        *(f"{step} 1" for step in steps),
        *(f"{step} 2" for step in steps),
    ]
    assert last.model.width == 44
    assert [(r.round, r.width) for r in folder.records()] == [(0, 48), (1, 46), (2, 44)]
    (run,) = fake.finished
    assert run.records == folder.records()
    assert run.model == folder.round_folder(2) / "model"


def test_a_step_inside_another_is_timed_once(tmp_path):
    log = RoundLog(RunFolder(tmp_path, writes=True), 3)
    with log.timed("recover"):
        time.sleep(0.02)
        with log.timed("collect"):
            time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt), log.timed("collect"):
            raise KeyboardInterrupt
    assert log.seconds["collect"] >= 0.1
    assert 0.02 <= log.seconds["recover"] < 0.1
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["collect", "recover"]


def test_a_record_holds_cuts_plan_metrics_and_seconds(start):
    spec = EvaluationSpec(tasks=(EvaluationTask(evaluator="f"),), every=1, before_recovery=True)
    folder, _ = start(Fake(), evaluation=spec)
    original, record, _ = folder.records()
    assert (original.cuts, original.plan_digest, original.pruned) == ((), None, None)
    assert original.recovered.metrics == {"width": 48.0}
    assert record.cuts == (CUT,)
    assert record.plan_digest is not None
    assert record.pruned.metrics == record.recovered.metrics == {"width": 46.0}
    assert set(record.seconds) == {
        "profile", "select", "prune", "evaluate_pruned", "recover", "evaluate", "bookkeeping",
    }  # fmt: skip


def test_every_stage_of_a_round_recovers_in_order(start):
    fake = Fake()
    stages = tuple(StageSpec(backend=name, settings={}) for name in ("cpt", "grpo"))
    start(fake, stages=stages)
    recoveries = [call for call in fake.calls if call.startswith("recover")]
    assert recoveries == [f"recover with {name} {i}" for i in (1, 2) for name in ("cpt", "grpo")]


def test_a_stage_on_a_live_model_took_the_step_on_every_rank(start):
    class Slow:
        @hookimpl(tryfirst=True)
        def ptl_recover(self, ctx, stage):
            if stage.backend == "cpt":
                time.sleep(0.1)
                with ctx.log.timed("collect"):
                    time.sleep(0.3)

    class TwoRanks(SingleProcess):
        size = 2

    stages = tuple(StageSpec(backend=name, settings={}) for name in ("cpt", "grpo"))
    folder, _ = start(Fake(), Slow(), stages=stages, ranks=TwoRanks())
    for record in folder.records()[1:]:
        cpt, grpo = record.stages
        assert [(s.backend, s.devices) for s in record.stages] == [("cpt", 2), ("grpo", 2)]
        assert 0.1 <= cpt.wall_seconds < 0.3
        assert grpo.wall_seconds < 0.1
        total = cpt.wall_seconds + grpo.wall_seconds
        assert record.seconds["recover"] == pytest.approx(total, abs=0.002)
        assert cpt.device_seconds == 2 * cpt.wall_seconds


def test_a_round_without_cuts_only_recovers(start):
    fake = Fake()
    start(fake, rounds=(RoundSpec(index=1, cuts=()),))
    assert fake.calls[2:] == ["recover with fake 1", "evaluate 1", "finished 1"]


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3]), (2, [2, 3]), (5, [3])])
def test_every_nth_round_and_the_last_are_measured(start, every, measured):
    rounds = tuple(RoundSpec(index=index, cuts=(CUT,)) for index in (1, 2, 3))
    task = EvaluationTask(evaluator="f")
    spec = EvaluationSpec(tasks=(task,), every=every, before_recovery=False)
    folder, _ = start(Fake(), rounds=rounds, evaluation=spec)
    assert [r.round for r in folder.records()[1:] if r.recovered is not None] == measured


@pytest.mark.parametrize(("original", "measured"), [(True, [0, 1, 2]), (False, [1, 2])])
def test_the_original_is_measured_unless_the_recipe_leaves_it_out(start, original, measured):
    task = EvaluationTask(evaluator="f")
    spec = EvaluationSpec(tasks=(task,), every=1, original=original, before_recovery=False)
    folder, _ = start(Fake(), evaluation=spec)
    assert [r.round for r in folder.records() if r.recovered is not None] == measured


def test_nothing_is_measured_where_the_recipe_names_nothing(start):
    fake = Fake()
    folder, _ = start(fake, evaluation=EvaluationSpec(tasks=(), every=1, before_recovery=True))
    assert not [call for call in fake.calls if call.startswith("evaluate")]
    assert len(folder.records()) == 3


def test_finished_rounds_are_skipped_on_resume(start):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(dies_in="profile 2"))
    fake = Fake()
    folder, _ = start(fake, width=46)
    assert fake.calls == [
        "profile 2", "select 2", "prune 2", "recover with fake 2", "evaluate 2", "finished 2",
    ]  # fmt: skip
    assert [r.width for r in folder.records()] == [48, 46, 44]


def test_a_plan_left_on_disk_is_taken_as_it_is(start):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(dies_in="recover with fake 1"))
    fake = Fake()
    start(fake)
    assert fake.calls[:3] == ["prune 1", "recover with fake 1", "evaluate 1"]


def test_the_original_is_measured_once_over_all_tries(start):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(dies_in="profile 1"))
    fake = Fake()
    start(fake)
    assert "evaluate 0" not in fake.calls
    assert fake.calls[0] == "profile 1"


STEPS = ["profile 1", "select 1", "prune 1", "recover with fake 1", "evaluate 1", "evaluate 2"]


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_anywhere_ends_as_an_uninterrupted_one(start, step):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(dies_in=step))
    folder, last = start(Fake(), width=46 if step.endswith("2") else 48)
    facts = [(r.round, r.width, r.plan_digest, r.recovered) for r in folder.records()]
    assert [fact[:2] for fact in facts] == [(0, 48), (1, 46), (2, 44)]
    assert all(fact[2] for fact in facts[1:])
    assert last.model.width == 44


def test_a_finished_run_does_nothing_more_than_say_so(start):
    start(Fake())
    fake = Fake()
    start(fake, width=44)
    assert fake.calls == []
    assert len(fake.finished) == 1


class Failing:
    """A plugin whose announcements fail."""

    @hookimpl
    def ptl_round_finished(self, record):
        raise RuntimeError("the tracker is down")

    @hookimpl
    def ptl_run_finished(self, run):
        raise RuntimeError("the tracker is still down")


@pytest.mark.parametrize("order", [(Fake, Failing), (Failing, Fake)])
def test_a_failing_announcement_is_logged_by_name_and_loses_nothing(start, caplog, order):
    plugins = [kind() for kind in order]
    with caplog.at_level(logging.ERROR):
        folder, last = start(*plugins)
    assert last.model.width == 44
    assert len(folder.records()) == 3
    (fake,) = (plugin for plugin in plugins if isinstance(plugin, Fake))
    assert [call for call in fake.calls if call.startswith("finished")] == [
        "finished 0", "finished 1", "finished 2",
    ]  # fmt: skip
    assert len(fake.finished) == 1
    name = f"plugin-{order.index(Failing)}"
    told = [r.getMessage() for r in caplog.records]
    assert told == [
        *[f"plugin '{name}' failed in ptl_round_finished"] * 3,
        f"plugin '{name}' failed in ptl_run_finished",
    ]
    assert "the tracker is down" in caplog.text


@pytest.mark.parametrize(
    "hook", ["ptl_profile", "ptl_select", "ptl_prune", "ptl_recover", "ptl_evaluate"]
)
def test_a_step_that_nobody_answers_is_an_error_that_names_it(start, hook):
    fake = Fake()
    setattr(fake, hook, None)  # an instance attribute hides the method from pluggy
    with pytest.raises(PluginError, match=f"no plugin answered {hook}; .*-p no:"):
        start(fake)


def test_a_wrapper_around_a_step_changes_what_the_loop_goes_on_with(start):
    class Slimmer:
        @hookimpl(wrapper=True)
        def ptl_prune(self, ctx, subject, plan):
            result = yield
            assert result.model.width == plan.new_width
            return Subject(family=LLAMA, model=Model(result.model.width - 1))

    fake = Fake()
    start(fake, Slimmer())
    assert fake.models == [45, 42]
