"""The backend `verl` of `ptl run`: one stage is one `python -m verl.trainer.main_ppo`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_plugins.health import Step
from ptl_plugins.stage_types import Command, StageJob, StageModel, StageSpec
from ptl_plugins.text_corpus import TextCorpus
from ptl_plugins.types import RoundContext
from verl_ext.grpo_files import file_problems
from verl_ext.grpo_settings import VerlModel, read_settings
from verl_ext.grpo_stage import (
    StageFacts,
    example_facts,
    reward_files,
    saved_checkpoint,
    stage_facts,
)
from verl_ext.health import steps_of
from verl_ext.hydra_overrides import override
from verl_ext.problem_check import data_problems
from verl_ext.problems import NUM_VALIDATION, stage_problems, verl_rows
from verl_ext.ray_cluster import ray_environment, running_cluster_problem
from verl_ext.reward_check import reward_problem
from verl_ext.rollout_shape import shape_problems
from verl_ext.verl_check import check_in_verl, inside_environment, inside_files
from verl_ext.verl_config import config_problems, verl_overrides

REWARD_FUNCTION = "score_answer"
LOG = "train.log"
CODE = "code"
"""In a stage's folder: what goes on PYTHONPATH."""


class Verl:
    """GRPO by verl, in the interpreter that the stage names."""

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the stage, a line per problem, or None."""
        settings = read_settings(VerlModel, stage.settings)
        if isinstance(settings, list):
            return "\n".join(settings)
        problems = [*config_problems(settings), *file_problems(settings)]
        if stage.launch.processes * settings.nodes % settings.tensor_parallel:
            problems.append(
                f"settings.tensor_parallel: {settings.tensor_parallel} does not divide the "
                f"stage's {stage.launch.processes * settings.nodes} GPUs (launch.processes x nodes)"
            )
        return "\n".join(problems) or None

    def check_model(self, stage: StageSpec, model: StageModel) -> str | None:
        """Return what of a round's shape the rollout engine would refuse, or None."""
        return "\n".join(shape_problems(_settings(stage), model)) or None

    def check_thoroughly(self, stage: StageSpec) -> str | None:
        """Return what verl's own config and checks find wrong, or None.

        It is asked for a stage with made-up paths, in the stage's interpreter and environment.
        """
        settings, python = _settings(stage), stage.python or sys.executable
        if problem := running_cluster_problem(settings.ray_address):
            return problem
        facts = example_facts(stage, settings, reward_function=REWARD_FUNCTION)
        overrides = verl_overrides(settings, facts, _chat_template(facts))
        found = [
            *data_problems(settings),
            check_in_verl(python, overrides, rollout=settings.rollout),
            reward_problem(python, settings.reward),
        ]
        return "\n".join(filter(None, found)) or None

    def job(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> StageJob:
        """Return the round's problems, the code that verl loads, and the command that trains."""
        settings = _settings(stage)
        facts = stage_facts(ctx, stage, settings, model, folder, reward_function=REWARD_FUNCTION)
        return StageJob(
            files={**_data_files(ctx, stage, settings, facts), **_code_files(facts)},
            command=_command(stage, settings, facts),
            result=facts.saved,
            steps=facts.steps,
            num_machines=settings.nodes,
        )

    def steps(self, job: StageJob) -> Iterator[Step]:
        """Yield what the program noted of its training steps."""
        return steps_of(job.steps)

    def collect(self, job: StageJob) -> Path:
        """Return the checkpoint of the last step, which verl writes in the form of Hugging Face.

        Raises:
            StageError: verl saved none, or PTL's trainer did not run.
        """
        return saved_checkpoint(job, "actor/huggingface")


def _settings(stage: StageSpec) -> VerlModel:
    settings = read_settings(VerlModel, stage.settings)
    assert not isinstance(settings, list), "`check` comes first"
    return settings


def _chat_template(facts: StageFacts) -> str | None:
    return facts.chat_template.read_text(encoding="utf-8") if facts.chat_template else None


def _data_files(
    ctx: RoundContext, stage: StageSpec, settings: VerlModel, facts: StageFacts
) -> dict[Path, str]:
    problems = stage_problems(ctx, stage, settings)
    files = {
        facts.train: verl_rows(problems, facts.prompt),
        facts.validation: verl_rows(problems[:NUM_VALIDATION], facts.prompt),
    }
    if settings.profile.before or settings.profile.after:
        assert isinstance(ctx.corpus, TextCorpus), "a backend recovers in ptl run only"
        texts = ctx.corpus.texts(ctx.spec.index)[: settings.profile.num_sequences]
        files[facts.profile_file] = json.dumps(list(texts))
    return files


def _code_files(facts: StageFacts) -> dict[Path, str]:
    return {**inside_files(facts.folder / CODE), **reward_files(facts)}


def _command(stage: StageSpec, settings: VerlModel, facts: StageFacts) -> Command:
    overrides = verl_overrides(settings, facts, _chat_template(facts))
    inside = inside_environment(facts.folder / CODE, rollout=settings.rollout)
    hydra: dict[str, Any] = {"hydra.run.dir": str(facts.folder / "hydra")}
    if settings.ray_address not in (None, "local"):  # processes that were not started from here
        hydra |= {f"+ray_kwargs.ray_init.runtime_env.env_vars.{k}": v for k, v in inside.items()}
    return Command(
        words=(
            stage.python or sys.executable,
            "-m",
            "verl.trainer.main_ppo",
            *overrides,
            *(override(key, value) for key, value in hydra.items()),
        ),
        folder=Path.cwd(),  # the settings may name files beside the recipe's caller
        log=facts.folder / LOG,
        environment={
            "PYTHONUNBUFFERED": "1",
            **inside,
            **ray_environment(settings.ray_address),
        },
        launch=stage.launch,
    )
