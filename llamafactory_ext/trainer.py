"""LLaMA-Factory's trainer with the prune-tune loop inside: one `train()` per round.

Between two rounds the model is unwrapped and bare, so profiling and surgery act on the live
model, and the next `train()` builds a fresh engine and optimizer around its new shape.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from transformers import Trainer, set_seed
from transformers.trainer_utils import TrainOutput

from llamafactory_ext.callbacks import OptimizerCoversModel, RoundFacts
from llamafactory_ext.engine import (
    bare_evaluation,
    give_each_round_its_tensorboard_run,
    release_engine,
)
from llamafactory_ext.health_callback import StopsWhenDiverged
from llamafactory_ext.history import merged_history, steps_of
from llamafactory_ext.launching import end_with
from llamafactory_ext.learning_rate import (
    StepSpan,
    kept_scheduler_settings,
    move_on,
    require_steps,
    step_span,
)
from llamafactory_ext.reload import not_finite, put_in_place
from ptl_plugins import hookimpl
from ptl_plugins.checkpoint import save_live
from ptl_plugins.disk_errors import disk_error
from ptl_plugins.divergence import require_healthy, require_no_trouble
from ptl_plugins.durable import copy_files
from ptl_plugins.errors import PTLError
from ptl_plugins.health import HealthWatch
from ptl_plugins.live import decoder_layers, round_to, width
from ptl_plugins.manifest import build_manifest
from ptl_plugins.provenance import FILE, read_latest
from ptl_plugins.ranks import main_first
from ptl_plugins.retry import run_rounds
from ptl_plugins.run_folder import MODEL
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import RoundContext, Subject

if TYPE_CHECKING:
    from llamafactory_ext.session import Parts, Session


def rounds_trainer(base: type[Trainer], session: Session) -> type[Trainer]:
    """Return a subclass of LLaMA-Factory's trainer that runs the session's rounds."""

    class RoundsTrainer(base):  # type: ignore[misc, valid-type]
        """`train()` is the whole loop; `save_model()` puts the last round's model in place."""

        step_span: StepSpan | None = None
        """Of the round in training; None: its learning rate has a schedule of its own."""

        def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> TrainOutput:
            """Run every round that is not finished yet; PTL resumes by itself."""
            rounds = TrainedRounds(self, session, train_once=super().train)
            try:
                return rounds.run()
            except PTLError as error:
                end_with(error)
            except (OSError, SafetensorError) as error:
                if (told := disk_error(error)) is None:
                    raise
                end_with(told)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """Return the round's schedule: its own, or its stretch of that of the whole run."""
            span, is_new = self.step_span, self.lr_scheduler is None
            with kept_scheduler_settings(self.args):
                if span is None or not is_new:
                    return super().create_scheduler(num_training_steps, optimizer)
                require_steps(span, num_training_steps)
                scheduler = super().create_scheduler(span.total, optimizer)
            move_on(scheduler, span.before)
            return scheduler

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            """Evaluate; after the last round there is no engine, and none is needed."""
            with bare_evaluation(self):
                return cast("dict[str, float]", super().evaluate(*args, **kwargs))

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """Save a checkpoint inside a round, or copy the last round's model to `output_dir`."""
            if _internal_call:
                super().save_model(output_dir, _internal_call)
                return
            model = session.run.last_model()
            assert model is not None
            with main_first(session.context().ranks) as main:
                if main:
                    copy_files(model, session.run.path)

    return RoundsTrainer


class TrainedRounds:
    """The loop around a Trainer, and the plugin that answers `ptl_recover` for it."""

    def __init__(self, trainer: Trainer, session: Session, *, train_once: Any) -> None:
        self.trainer = trainer
        self.session = session
        self.train_once = train_once
        finished = float(session.run.num_finished())
        self.output = TrainOutput(0, 0.0, {"ptl_rounds_finished": finished})

    def run(self) -> TrainOutput:
        """Run the loop; return the last round's training output."""
        trainer, plan = self.trainer, self.session.plan
        manifest = build_manifest(
            plan.recipe, self.session.manager, num_ranks=trainer.args.world_size
        )
        self.session.run.open(plan.recipe, manifest)
        assert self.session.parts is not None
        self.session.run.require_corpus(self.session.parts.digest())
        self._keep_earlier_provenance()
        self.session.manager.register(self, "llamafactory-trainer")
        corpus, folder = trainer.train_dataset, trainer.args.output_dir
        try:
            run_rounds(self.session.context(), self._subject(), describe, self._last_good)
        finally:
            trainer.train_dataset, trainer.args.output_dir = corpus, folder
        trainer.state.log_history = merged_history(self.session.run)
        return self.output

    def _subject(self) -> Subject:
        """Return the trainer's model as the steps of a round take it."""
        model = cast("Any", self.trainer.model)
        model.to(self.trainer.args.device)  # DeepSpeed leaves it on the CPU before an engine is
        return Subject(
            family=self.session.plan.family,
            model=model,
            tokenizer=cast("Any", self.trainer.processing_class),
            stored_dtype=stored_dtype(model),
        )

    def _last_good(self) -> Subject:
        """Load the last good round's model, or the original, in place of one that diverged."""
        release_engine(self.trainer)
        folder = self.session.run.last_model() or self.session.plan.recipe.model
        put_in_place(self.trainer, lambda: self.session.loader.load(str(folder)))
        return self._subject()

    def _keep_earlier_provenance(self) -> None:
        """An original that was itself pruned passes on where its neurons came from."""
        run, earlier = self.session.run, Path(self.session.plan.recipe.model) / FILE
        if earlier.is_file():
            keys = json.loads(earlier.read_text(encoding="utf-8"))
            run.write(run.round_folder(0) / FILE, keys)

    @hookimpl(trylast=True)
    def ptl_recover(self, ctx: RoundContext, stage: StageSpec, subject: Subject) -> Subject | None:
        """Train one round on its own part, then save the model in its stored dtype."""
        trainer, index = self.trainer, ctx.spec.index
        assert subject.model is not None
        rows = cast("Parts", ctx.corpus).rows_of(index)
        cast("Any", trainer).step_span = self._step_span(index)
        release_engine(trainer)
        with main_first(ctx.ranks) as main:
            if main:  # logs of a try that was cut short would mix with this one's
                shutil.rmtree(ctx.folder / "stage_0", ignore_errors=True)
        trainer.train_dataset = cast("Any", self._corpus).select(rows)
        trainer.args.output_dir = str(ctx.folder / "stage_0")
        give_each_round_its_tensorboard_run(trainer)
        set_seed(ctx.recipe.seed + index)  # a resumed round draws what an uninterrupted one does
        callbacks = self._callbacks(ctx, subject)
        trainer.callback_handler.callbacks[:0] = callbacks
        try:
            self.output = self.train_once()
        finally:
            for callback in callbacks:
                trainer.remove_callback(callback)
        trainer.save_state()
        require_healthy(ctx, steps_of(trainer.state.log_history), ctx.folder / "stage_0")
        require_no_trouble(ctx, not_finite(subject.model), ctx.folder / "stage_0")
        if report := getattr(trainer, "distillation_report", None):
            ctx.run.event("distillation", round=index, stage=0, **dataclasses.asdict(report))
        release_engine(trainer)
        self._save(ctx, subject)
        return subject

    def _step_span(self, round_index: int) -> StepSpan | None:
        """Return a round's steps among those of the run, where one schedule spans them all."""
        if self.session.plan.recipe.learning_rate_schedule == "round":
            return None
        assert self.session.parts is not None
        return step_span(self.session.parts.rows, round_index, self.trainer.args)

    @property
    def _corpus(self) -> Any:
        if not hasattr(self, "_whole"):
            self._whole = self.trainer.train_dataset
        return self._whole

    def _callbacks(self, ctx: RoundContext, subject: Subject) -> list[Any]:
        shape = describe(subject)
        facts = {
            "round": ctx.spec.index,
            "width": shape["width"],
            "layers": shape["num_layers"],
            "parameters": shape["num_parameters"],
        }
        others = [c for some in ctx.hooks.ptl_trainer_callbacks(ctx=ctx) for c in some or ()]
        watch = HealthWatch(ctx.recipe.health, vocabulary=ctx.original.vocabulary)
        return [RoundFacts(facts), *others, OptimizerCoversModel(), StopsWhenDiverged(watch)]

    def _save(self, ctx: RoundContext, subject: Subject) -> None:
        assert subject.model is not None
        round_to(subject.model, subject.stored_dtype)
        with main_first(ctx.ranks) as main:
            if main:
                save_live(
                    subject,
                    ctx.folder / MODEL,
                    original=ctx.recipe.model,
                    extra={FILE: read_latest(ctx.run, ctx.spec.index, describe(subject)).to_json()},
                )


def describe(subject: Subject) -> dict[str, int]:
    """Return layers, width, hidden size and parameters of a live model."""
    assert subject.model is not None
    return {
        "num_layers": len(decoder_layers(subject.model, subject.family)),
        "width": width(subject.model, subject.family),
        "hidden": int(subject.model.config.hidden_size),
        "num_parameters": sum(p.numel() for p in subject.model.parameters()),
    }


def stored_dtype(model: Any) -> torch.dtype:
    """Return the dtype of the checkpoint that was loaded, which its config still names."""
    dtype = getattr(model.config, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else next(model.parameters()).dtype
