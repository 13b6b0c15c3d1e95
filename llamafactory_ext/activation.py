"""A training process with a `ptl:` section begins: from the parsed yaml to a session."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafactory_ext import patches
from llamafactory_ext.launching import end_with
from llamafactory_ext.preflight import Prepared, preflight
from llamafactory_ext.session import Session
from ptl_plugins.errors import PTLError, RecipeError, did_you_mean
from ptl_plugins.file_modes import deny_others_writing
from ptl_plugins.remote_code import remote_code_notes
from ptl_plugins.round_log import RoundLog
from ptl_plugins.run_folder import RunFolder
from ptl_plugins.secret_values import RedactingFormatter


def activate(args: dict[str, Any], argument_classes: Sequence[type]) -> dict[str, Any]:
    """Prepare the run and return LLaMA-Factory's own arguments, the section taken out.

    `argument_classes` are LLaMA-Factory's dataclasses, whose fields are its keys. A mistake of
    the user ends the process with one line and exit code 2.
    """
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("arguments")
    text = path.read_text(encoding="utf-8") if path.is_file() else json.dumps(args, default=str)
    deny_others_writing()  # a worker that torchrun started by itself
    try:
        check_keys(path, args, argument_classes)
        session = _session(preflight(path, args, text))
    except PTLError as error:
        end_with(error)
    show_progress()
    for note in remote_code_notes(session.plan.recipe):
        RoundLog(session.run, 0).say(note)
    patches.enter_training(session)
    return training_arguments(args, session)


def check_keys(path: Path, args: Mapping[str, Any], argument_classes: Sequence[type]) -> None:
    """Refuse keys that neither PTL nor LLaMA-Factory knows; its own error has a traceback.

    Raises:
        RecipeError: one line per unknown key.
    """
    known = {f.name for cls in argument_classes for f in dataclasses.fields(cls)} | {"ptl"}
    if os.environ.get("ALLOW_EXTRA_ARGS", "0").lower() in ("1", "true", "y"):
        return  # LLaMA-Factory's own switch
    unknown = [key for key in args if key not in known]
    if unknown:
        lines = (
            f"{path}: {key}: is no key of LLaMA-Factory{did_you_mean(key, known)}"
            for key in unknown
        )
        raise RecipeError("\n".join(lines))


def _session(prepared: Prepared) -> Session:
    folder = prepared.plan.recipe.run_folder
    run = RunFolder(folder, writes=os.environ.get("RANK", "0") == "0")
    return Session(
        plan=prepared.plan, manager=prepared.manager, registry=prepared.registry, run=run
    )


def show_progress() -> None:
    """Print PTL's own log lines; this process is a command's, so its logging is ours to set."""
    logger = logging.getLogger("ptl_plugins")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(RedactingFormatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def training_arguments(args: dict[str, Any], session: Session) -> dict[str, Any]:
    """Return the arguments that LLaMA-Factory parses.

    The model is that of the last finished round, so that the same command resumes. Unless the
    yaml says otherwise, checkpoints in the middle of a round are not written: a round that was
    cut short is redone from its start. A finished `output_dir` is no reason to refuse: PTL
    checked that it holds this very run.
    """
    args = {key: value for key, value in args.items() if key != "ptl"}
    model = session.run.last_model()
    if model is not None:
        args["model_name_or_path"] = str(model)
    if "save_steps" not in args:
        args.setdefault("save_strategy", "no")
    args["overwrite_output_dir"] = True
    return args
