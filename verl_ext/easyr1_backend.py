"""The backend `easyr1` of `ptl run`: one stage is one run of EasyR1 through PTL's launcher."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ptl_plugins.errors import PTLError
from ptl_plugins.health import Step
from ptl_plugins.stage_types import Command, StageJob, StageModel, StageSpec
from ptl_plugins.types import RoundContext
from verl_ext.easyr1_check import check_in_easyr1, easyr1_environment
from verl_ext.easyr1_config import config_problems, easyr1_config
from verl_ext.easyr1_home import clone, easyr1_version, home_problem
from verl_ext.easyr1_schema import NEWEST
from verl_ext.easyr1_sizes import size_problems
from verl_ext.easyr1_transformers import transformers_problems
from verl_ext.grpo_files import file_problems
from verl_ext.grpo_settings import EasyR1Model, read_settings
from verl_ext.grpo_stage import (
    StageFacts,
    example_facts,
    reward_files,
    saved_checkpoint,
    stage_facts,
)
from verl_ext.health import steps_of
from verl_ext.problem_check import data_problems
from verl_ext.problems import NUM_VALIDATION, Problem, easyr1_rows, stage_problems
from verl_ext.ray_cluster import ray_environment, running_cluster_problem
from verl_ext.reward_check import reward_problem
from verl_ext.rollout_shape import shape_problems

REWARD_FUNCTION = "score_answers"
LAUNCH = Path(__file__).with_name("easyr1_launch.py")
CONFIG, LOG = "easyr1.yaml", "train.log"
CODE = "code"
"""In a stage's folder: Python puts the folder of the program that it runs first."""
MERGED = "merged"
"""Among what EasyR1 saved: the model of all ranks' shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EasyR1Job(StageJob):
    """A job whose result are shards."""

    keep_shards: bool
    """Whether they stay after they are merged."""


class EasyR1:
    """GRPO by EasyR1, from a clone, in the interpreter that the stage names."""

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the stage, a line per problem, or None."""
        settings = read_settings(EasyR1Model, stage.settings)
        if isinstance(settings, list):
            return "\n".join(settings)
        home = clone(settings.home)
        wrong_home = home_problem(home)
        version = NEWEST if wrong_home else easyr1_version(home) or NEWEST
        problems = [
            wrong_home,
            *config_problems(settings, version),
            *file_problems(settings),
            *size_problems(settings, stage.launch.processes),
        ]
        return "\n".join(filter(None, problems)) or None

    def check_model(self, stage: StageSpec, model: StageModel) -> str | None:
        """Return what of a round's shape vLLM, or of its files transformers 4, would refuse."""
        problems = [*shape_problems(_settings(stage), model), *transformers_problems(model)]
        return "\n".join(problems) or None

    def check_thoroughly(self, stage: StageSpec) -> str | None:
        """Return what EasyR1's own config and checks find wrong, or None.

        It is asked for a stage with made-up paths, in the stage's interpreter and environment.
        """
        settings, python = _settings(stage), stage.python or sys.executable
        if problem := running_cluster_problem(settings.ray_address):
            return problem
        keys = easyr1_config(
            settings, example_facts(stage, settings, reward_function=REWARD_FUNCTION)
        )
        found = [
            *data_problems(settings),
            check_in_easyr1(python, clone(settings.home), keys),
            reward_problem(python, settings.reward),
        ]
        return "\n".join(filter(None, found)) or None

    def job(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> EasyR1Job:
        """Return the yaml, the round's problems, the launcher, and the command that trains."""
        settings = _settings(stage)
        facts = stage_facts(ctx, stage, settings, model, folder, reward_function=REWARD_FUNCTION)
        problems = stage_problems(ctx, stage, settings)
        _require_uncut(facts)
        return EasyR1Job(
            files={**_data_files(facts, problems), **_code_files(settings, facts)},
            command=_command(stage, settings, facts),
            result=facts.saved,
            steps=facts.steps,
            num_machines=settings.nodes,
            keep_shards=settings.keep_shards,
        )

    def steps(self, job: StageJob) -> Iterator[Step]:
        """Yield what the program noted of its training steps."""
        return steps_of(job.steps)

    def collect(self, job: StageJob) -> Path:
        """Merge the shards of the last step; return the folder of the whole model.

        A merge that an earlier try finished is not done again: its shards may be gone.

        Raises:
            StageError: EasyR1 saved none, PTL's trainer did not run, or the shards are broken.
        """
        assert isinstance(job, EasyR1Job), "a job of this backend"
        from verl_ext.fsdp_shards import merge_shards, remove_shards

        actor, merged = saved_checkpoint(job, "actor"), job.result / MERGED
        if not merged.is_dir():
            merge_shards(actor, merged)
        if not job.keep_shards:
            remove_shards(actor)
        return merged


def _settings(stage: StageSpec) -> EasyR1Model:
    settings = read_settings(EasyR1Model, stage.settings)
    assert not isinstance(settings, list), "`check` comes first"
    return settings


def _require_uncut(facts: StageFacts) -> None:
    """Refuse a path that EasyR1 would cut in two."""
    if "@" in str(facts.train):
        raise PTLError(
            f"{facts.folder}: EasyR1 takes what follows '@' in a path for a split; give a run_dir "
            "without one"
        )


def _data_files(facts: StageFacts, problems: Sequence[Problem]) -> dict[Path, str]:
    return {
        facts.train: easyr1_rows(problems),
        facts.validation: easyr1_rows(problems[:NUM_VALIDATION]),
    }


def _code_files(settings: EasyR1Model, facts: StageFacts) -> dict[Path, str]:
    keys = easyr1_config(settings, facts)
    return {
        facts.folder / CONFIG: yaml.safe_dump(keys, sort_keys=False, allow_unicode=True),
        facts.folder / CODE / LAUNCH.name: LAUNCH.read_text(encoding="utf-8"),
        **reward_files(facts),
    }


def _command(stage: StageSpec, settings: EasyR1Model, facts: StageFacts) -> Command:
    program = facts.folder / CODE / LAUNCH.name
    return Command(
        words=(
            stage.python or sys.executable,
            str(program),
            str(facts.folder / CONFIG),
            str(facts.steps),
        ),
        folder=Path.cwd(),  # the settings may name files beside the recipe's caller
        log=facts.folder / LOG,
        environment={
            "PYTHONUNBUFFERED": "1",
            **easyr1_environment(clone(settings.home)),
            **ray_environment(settings.ray_address),
        },
        launch=stage.launch,
    )
