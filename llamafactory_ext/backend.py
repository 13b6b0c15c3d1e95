"""The backend `llamafactory` of `ptl run`: one stage is one `llamafactory-cli train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ptl_plugins.durable import write_json, write_text
from ptl_plugins.errors import StageError
from ptl_plugins.text_corpus import TextCorpus
from ptl_plugins.types import Command, CommandResult, RoundContext, StageSpec

OURS = {
    "model_name_or_path", "dataset", "dataset_dir", "output_dir", "overwrite_output_dir",
    "do_train", "ptl", "resume_from_checkpoint", "seed",
}  # fmt: skip
"""Keys that PTL sets for each round."""
FIXED = {"stage": "pt", "finetuning_type": "full"}
DEFAULTS = {"save_strategy": "no", "overwrite_cache": True, "report_to": "none", "logging_steps": 1}
LAST_LINES = 15
YAML, LOG, TRAINED = "train.yaml", "train.log", "trained"


class LlamaFactory:
    """Continual pre-training by LLaMA-Factory, in the interpreter that the stage names."""

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the stage in one line, or None."""
        for key in stage.settings:
            if key in OURS:
                return f"settings.{key}: is set by PTL for each round; remove it"
        for key, value in FIXED.items():
            if stage.settings.get(key, value) != value:
                return f"settings.{key}: {stage.settings[key]!r} cannot be used here; only {value}"
        return None

    def recover(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> Path:
        """Train `model` on the round's part by `llamafactory-cli train`.

        Raises:
            StageError: it failed; the line names exit code, folder and log.
        """
        assert isinstance(ctx.corpus, TextCorpus), "a backend recovers in ptl run only"
        write_data(folder / "data", ctx.corpus.texts(ctx.spec.index))
        keys = stage_keys(stage, model, folder, seed=ctx.recipe.seed + ctx.spec.index)
        write_text(folder / YAML, yaml.safe_dump(keys, sort_keys=False))
        result = ctx.hooks.ptl_launch(ctx=ctx, command=stage_command(stage, folder))
        _require_success(result, folder)
        return folder / TRAINED


def write_data(folder: Path, texts: Any) -> None:
    """Write the round's part as a data set of LLaMA-Factory called `part`."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    write_text(folder / "part.jsonl", "\n".join(lines) + "\n")
    info = {"part": {"file_name": "part.jsonl", "columns": {"prompt": "text"}}}
    write_json(folder / "dataset_info.json", info)


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


def stage_command(stage: StageSpec, folder: Path) -> Command:
    """Return the command of a stage; several processes are torchrun's."""
    environment = {"PYTHONUNBUFFERED": "1"}
    if stage.processes > 1:
        environment |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(stage.processes)}
    python = stage.python or sys.executable
    return Command(
        words=(python, "-m", "llamafactory.cli", "train", str((folder / YAML).resolve())),
        folder=Path.cwd(),  # the settings may name files beside the recipe's caller
        log=folder / LOG,
        environment=environment,
        timeout=stage.timeout,
    )


def _require_success(result: CommandResult, folder: Path) -> None:
    if result.exit_code == 0 and not result.timed_out:
        return
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    why = "ran past its timeout" if result.timed_out else f"ended with {result.exit_code}"
    raise StageError(
        f"{folder}: llamafactory-cli train {why} after {result.seconds:.0f} s; its log is {log}, "
        "whose last lines are:\n" + "\n".join(lines)
    )
