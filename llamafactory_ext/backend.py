"""The backend `llamafactory` of `ptl run`: one stage is one `llamafactory-cli train`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llamafactory_ext import patches
from llamafactory_ext.history import STATE_FILE, logged_steps
from llamafactory_ext.recipe import RULES
from llamafactory_ext.settings_check import check_settings
from llamafactory_ext.sliced_stage import sliced_problems
from llamafactory_ext.taught_stage import (
    REPORT,
    require_interpreter,
    require_teachable,
    say_report,
    taught_problems,
    teacher_keys,
)
from ptl_plugins.durable import json_text
from ptl_plugins.errors import PTLError
from ptl_plugins.health import Step, as_settings
from ptl_plugins.kept_files import TRAINED
from ptl_plugins.stage_types import Command, LaunchSpec, StageJob, StageModel, StageSpec
from ptl_plugins.text_corpus import TextCorpus
from ptl_plugins.types import RoundContext

OURS = {
    "model_name_or_path", "dataset", "dataset_dir", "output_dir", "overwrite_output_dir",
    "do_train", "ptl", "ptl_distill", "resume_from_checkpoint", "seed",
}  # fmt: skip
"""Keys that PTL sets for each round."""
FIXED = {"stage": "pt", "finetuning_type": "full"}
CHANGES_THE_ROUND = {
    "tokenized_path", "adapter_name_or_path", "quantization_bit", "resize_vocab", "add_tokens",
    "add_special_tokens", "new_special_tokens_config", "rope_scaling", "push_to_hub",
    "neat_packing", "use_llama_pro", "mixture_of_depths", "train_from_scratch",
}  # fmt: skip
"""Keys that would train on another part, train another model, or save something else."""
DEFAULTS = {
    "save_strategy": "no", "overwrite_cache": True, "report_to": "none", "logging_steps": 1,
    "logging_nan_inf_filter": False,
}  # fmt: skip
"""Of a stage's yaml; the last one's own default would log a finite loss in place of NaN."""
YAML, LOG = "train.yaml", "train.log"
PLAIN, TAUGHT = ("llamafactory.cli", "train"), ("ptl_plugins", "train-llamafactory")
"""Modules that train, and their command."""


class LlamaFactory:
    """Continual pre-training by LLaMA-Factory, in the interpreter that the stage names."""

    distils = True
    """Whether a stage of it can have the recipe's teacher."""

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the stage, a line per problem, or None."""
        given = stage.settings
        problems = [
            f"{key}: is set by PTL for each round; remove it" for key in given if key in OURS
        ]
        problems += [
            f"{key}: {given[key]!r} cannot be used here; only {value}"
            for key, value in FIXED.items()
            if given.get(key, value) != value
        ]
        problems += [
            f"{key}: {given[key]!r}: {remedy}"
            for key, allowed, remedy in RULES
            if key in CHANGES_THE_ROUND and not allowed(given.get(key))
        ]
        return "\n".join(f"settings.{problem}" for problem in problems) or None

    def check_thoroughly(self, stage: StageSpec) -> str | None:
        """Return what LLaMA-Factory's own parser finds wrong with the yaml, or None.

        The keys of each round are parsed as well: their names are those of the installed version.
        """
        ours = stage_keys(stage, Path("model"), Path("stage"), seed=0)
        return check_settings(stage.python or sys.executable, {**ours, **stage.settings})

    def check_model(self, stage: StageSpec, model: StageModel) -> str | None:
        """Return what keeps the stage from training a model of the run, or None."""
        if not model.sliced:
            return None
        return "\n".join(f"settings.{line}" for line in sliced_problems(stage.settings)) or None

    def check_taught(self, stage: StageSpec) -> str | None:
        """Return which settings do not go with the recipe's teacher, or None."""
        return "\n".join(taught_problems(stage.settings)) or None

    def check_taught_thoroughly(self, stage: StageSpec) -> str | None:
        """Return what the stage's interpreter lacks for a teacher, which is asked, or None."""
        try:
            require_interpreter(stage)
        except PTLError as error:
            return str(error)
        return None

    def job(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> StageJob:
        """Return the yaml, the round's part as a data set, and the command that trains on it.

        Raises:
            PTLError: the recipe has a teacher, which the stage cannot have.
        """
        assert isinstance(ctx.corpus, TextCorpus), "a backend recovers in ptl run only"
        keys = stage_keys(stage, model, folder, seed=ctx.recipe.seed + ctx.spec.index)
        files = data_files(folder / "data", ctx.corpus.texts(ctx.spec.index))
        distill = ctx.recipe.distill
        taught = distill is not None and distill.is_on
        if distill is not None and taught:
            require_teachable(stage)
            keys |= teacher_keys(distill, ctx.recipe.model)
        files[folder / YAML] = yaml.safe_dump(keys, sort_keys=False)
        result = folder / TRAINED
        return StageJob(
            files=files,
            command=_watched(ctx, stage_command(stage, folder, taught=taught)),
            result=result,
            steps=result / REPORT if taught else None,
        )

    def steps(self, job: StageJob) -> Sequence[Step]:
        """Return what transformers' Trainer noted in `trainer_state.json`; nothing without it."""
        return logged_steps(job.result / STATE_FILE)

    def collect(self, job: StageJob) -> Path:
        """Return what LLaMA-Factory saved: it is a checkpoint already.

        Raises:
            PTLError: the stage has a teacher, and trained without it.
        """
        if job.steps is not None and not job.steps.is_file():
            raise PTLError(
                f"{job.result}: has no {REPORT}: LLaMA-Factory trained without the teacher; remove "
                "the setting that takes another trainer than its own, or 'distill'"
            )
        say_report(job.result)
        return job.result


def _watched(ctx: RoundContext, command: Command) -> Command:
    """Return the command with what its training is watched by, where PTL is in its interpreter."""
    watch = json.dumps(as_settings(ctx.recipe.health, ctx.original.vocabulary))
    return dataclasses.replace(command, environment={**command.environment, patches.HEALTH: watch})


def data_files(folder: Path, texts: Sequence[str]) -> dict[Path, str]:
    """Return a round's part as the files of a data set of LLaMA-Factory called `part`."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    info = {"part": {"file_name": "part.jsonl", "columns": {"prompt": "text"}}}
    return {
        folder / "part.jsonl": "\n".join(lines) + "\n",
        folder / "dataset_info.json": json_text(info),
    }


def stage_keys(stage: StageSpec, model: Path, folder: Path, *, seed: int) -> dict[str, Any]:
    """Return the yaml of a stage: the recipe's settings, and what PTL sets."""
    ours: Mapping[str, Any] = {
        "model_name_or_path": str(model.resolve()),
        "do_train": True,
        "dataset_dir": str((folder / "data").resolve()),
        "dataset": "part",
        "output_dir": str((folder / TRAINED).resolve()),
        "seed": seed,
    }
    return {**DEFAULTS, **FIXED, **stage.settings, **ours}


def path_with_torchrun(python: str) -> str:
    """Return PATH with an interpreter's own programs first: LLaMA-Factory starts `torchrun`."""
    folder = Path(shutil.which(python) or python).absolute().parent
    return os.pathsep.join([str(folder), os.environ.get("PATH", "")])


def stage_command(stage: StageSpec, folder: Path, *, taught: bool = False) -> Command:
    """Return the command of a stage; several processes are torchrun's.

    A stage with a teacher goes through PTL's own door, whether torch's autoload is on or not.
    """
    # the number is told even when it is 1: the launcher would start one per GPU that it sees
    environment = {"PYTHONUNBUFFERED": "1", "NPROC_PER_NODE": str(stage.launch.processes)}
    python = stage.python or sys.executable
    if stage.launch.processes > 1:
        environment["FORCE_TORCHRUN"] = "1"
        if stage.launch.launcher == LaunchSpec().launcher:
            environment["PATH"] = path_with_torchrun(python)
    return Command(
        words=(python, "-m", *(TAUGHT if taught else PLAIN), str((folder / YAML).resolve())),
        folder=Path.cwd(),  # the settings may name files beside the recipe's caller
        log=folder / LOG,
        environment=environment,
        launch=stage.launch,
    )
