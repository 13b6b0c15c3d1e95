"""What a GRPO stage is given beside its settings, and what it has to leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ptl_plugins.errors import StageError
from ptl_plugins.given_path import given_path
from ptl_plugins.stage_types import StageJob, StageSpec
from ptl_plugins.types import RoundContext
from verl_ext.grpo_settings import GrpoStageModel, template_path

REWARD = Path(__file__).with_name("reward.py")
STEPS = "steps.jsonl"
"""In a stage's folder: a line per step."""
SAVED = "saved"
"""In a stage's folder: what the framework saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """Facts of one stage that both translations need; every path is absolute."""

    model: Path
    """The pruned checkpoint that is trained."""
    folder: Path
    """The stage's own: nothing of another stage is ever in it."""
    reward_file: Path
    reward_function: str
    prompt: Path
    """The prompt's template."""
    chat_template: Path | None
    processes: int
    """GPUs of each machine."""
    seed: int

    @property
    def train(self) -> Path:
        """The round's part of the problems."""
        return self.folder / "data" / "train.jsonl"

    @property
    def validation(self) -> Path:
        """A few problems of it: EasyR1 validates at the end whatever is asked."""
        return self.folder / "data" / "validation.jsonl"

    @property
    def saved(self) -> Path:
        """Where the framework saves, so that it never finds an older shape."""
        return self.folder / SAVED

    @property
    def steps(self) -> Path:
        """Where a line per step goes."""
        return self.folder / STEPS

    @property
    def profile_file(self) -> Path:
        """The texts that the live actor is profiled on."""
        return self.folder / "data" / "profile.json"

    def profiled(self, moment: str) -> Path:
        """Return where the activations go, `before` or `after` the training."""
        return self.folder / f"profile_{moment}.safetensors"


def stage_facts(
    ctx: RoundContext,
    stage: StageSpec,
    settings: GrpoStageModel,
    model: Path,
    folder: Path,
    *,
    reward_function: str,
) -> StageFacts:
    """Return the facts of a stage of a round.

    Args:
        ctx: the round.
        stage: how it is launched.
        settings: the stage's, checked.
        model: the checkpoint that is trained.
        folder: the stage's.
        reward_function: of PTL's own reward, where the user gives none.
    """
    folder, own = folder.resolve(), settings.reward.file
    chat = settings.chat_template
    return StageFacts(
        model=model.resolve(),
        folder=folder,
        reward_file=given_path(own).resolve() if own else folder / REWARD.name,
        reward_function=settings.reward.function or reward_function,
        prompt=template_path(settings.prompt).resolve(),
        chat_template=template_path(chat).resolve() if chat else None,
        processes=stage.launch.processes,
        seed=ctx.recipe.seed + ctx.spec.index,
    )


def example_facts(
    stage: StageSpec, settings: GrpoStageModel, *, reward_function: str
) -> StageFacts:
    """Return facts of a stage that no round has, for a framework to check; arguments as above."""
    own, chat, folder = settings.reward.file, settings.chat_template, Path("/stage")
    return StageFacts(
        model=folder / "model",
        folder=folder,
        reward_file=given_path(own).resolve() if own else REWARD,
        reward_function=settings.reward.function or reward_function,
        prompt=template_path(settings.prompt).resolve(),
        chat_template=template_path(chat).resolve() if chat else None,
        processes=stage.launch.processes,
        seed=0,
    )


def reward_files(facts: StageFacts) -> dict[Path, str]:
    """Return the copy of PTL's reward that the stage brings; none of the user's own."""
    if facts.reward_file.parent != facts.folder:
        return {}
    return {facts.reward_file: REWARD.read_text(encoding="utf-8")}


def saved_checkpoint(job: StageJob, below: str) -> Path:
    """Return what a stage saved at its only step, `global_step_N/BELOW`.

    Raises:
        StageError: it saved none or several, or noted no training step.
    """
    found = sorted(job.result.glob(f"global_step_*/{below}"))
    if len(found) != 1:
        raise StageError(
            f"{job.result}: the stage left {len(found)} checkpoints where it should be one; "
            f"see {job.command.log}"
        )
    if job.steps is None or not job.steps.is_file() or not job.steps.stat().st_size:
        raise StageError(
            f"{job.result.parent}: the stage noted no training step; see {job.command.log}"
        )
    return found[0]
