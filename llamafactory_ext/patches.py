"""Every place where PTL changes LLaMA-Factory, which offers no plugin mechanism of its own.

Written against llamafactory 0.9.5 (upstream issue 8761, open: the command line passes no
callbacks). `tests/llamafactory/test_upstream.py` holds the lines that these patches rely on and
fails when upstream changes them.

| patched | why |
| --- | --- |
| `launcher.launch` | mistakes in a `ptl:` section end the command before workers start |
| `hparams.parser._parse_train_args` | takes the `ptl:` section out, else an unknown key |
| `data.loader._get_preprocessed_dataset` | cuts the corpus by document before it is packed |
| `train.pt.workflow.CustomTrainer` | one `train()` per round; a teacher's loss; the watch |
| `train.pt.workflow.load_model` | remembered, to load the last good round after a divergence |

The first two are applied at import and pass everything through unless there is a `ptl:`
section; the last three only when there is one. A stage of `ptl run` changes the trainer alone:
with a teacher its yaml has the key `ptl_distill`, which the parser's wrapper takes out, and the
variable `PTL_HEALTH` tells at which bounds its training ends early.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamafactory_ext.session import Session
    from ptl_plugins.types import DistillSpec

SUPPORTED = ("0.9.5",)
MARK = "_ptl_patched"
TEACHER = "ptl_distill"
"""The key of a stage's yaml that holds its teacher."""
HEALTH = "PTL_HEALTH"
"""The variable of a stage's program with the bounds at which its training ends early."""


def apply(module: ModuleType) -> None:
    """Wrap the one function of `module` that PTL needs; twice is as good as once."""
    if getattr(module, MARK, False):
        return
    if module.__name__ == "llamafactory.launcher":
        module.launch = _wrap_launch(module.launch)  # type: ignore[attr-defined]
    else:
        module._parse_train_args = _wrap_parser(module)  # type: ignore[attr-defined]
    setattr(module, MARK, True)


def unsupported_version() -> str | None:
    """Return one line where the installed LLaMA-Factory is not one the patches are made for."""
    installed = importlib.metadata.version("llamafactory")
    if installed in SUPPORTED:
        return None
    return (
        f"llamafactory {installed} is installed, but PTL enters versions "
        f"{', '.join(SUPPORTED)}; install one of them: pip install llamafactory=={SUPPORTED[-1]}"
    )


def _wrap_launch(launch: Any) -> Any:
    @functools.wraps(launch)
    def wrapped() -> Any:
        from llamafactory_ext.launching import launch_with_checks

        return launch_with_checks(launch)

    return wrapped


def _wrap_parser(module: ModuleType) -> Any:
    original = module._parse_train_args

    @functools.wraps(original)
    def wrapped(args: Any = None) -> Any:
        args = module.read_args(args)
        if isinstance(args, dict) and "ptl" in args:
            from llamafactory_ext.activation import activate

            args = activate(args, module._TRAIN_ARGS)
        elif isinstance(args, dict) and TEACHER in args:
            from llamafactory_ext.taught_stage import begin_taught_stage

            args = begin_taught_stage(args)
        if HEALTH in os.environ and unsupported_version() is None:
            enter_watch()
        return original(args)

    return wrapped


def enter_training(session: Session) -> None:
    """Apply the two patches of a training process with a `ptl:` section."""
    import llamafactory.data.loader as loader
    import llamafactory.train.pt.workflow as workflow

    from llamafactory_ext.data_parts import preprocess_by_parts
    from llamafactory_ext.trainer import rounds_trainer

    loader._get_preprocessed_dataset = preprocess_by_parts(loader, session)
    recipe = session.plan.recipe
    if recipe.distill and recipe.distill.is_on:
        enter_distillation(recipe.distill, recipe.model)
    workflow.CustomTrainer = rounds_trainer(workflow.CustomTrainer, session)
    workflow.load_model = session.loader.remembering(workflow.load_model)


def enter_distillation(spec: DistillSpec, original: str) -> None:
    """Let the trainer distil; `original` is the model that `teacher: original` means."""
    import llamafactory.train.pt.workflow as workflow

    from llamafactory_ext.distilling import distilling_trainer

    workflow.CustomTrainer = distilling_trainer(workflow.CustomTrainer, spec, original)


def enter_watch() -> None:
    """Let the trainer of a stage of `ptl run` end early when it diverges; once is enough."""
    import llamafactory.train.pt.workflow as workflow

    from llamafactory_ext.health_callback import watched_trainer

    if not getattr(workflow, MARK, False):
        workflow.CustomTrainer = watched_trainer(workflow.CustomTrainer)
        setattr(workflow, MARK, True)
