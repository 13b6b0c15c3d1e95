"""What `ptl eval` does: benchmarks, teacher-forced loss and speed in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import did_you_mean
from ptl_plugins.evaluation.benchmarks import BENCHMARKS
from ptl_plugins.evaluation.comparison import Compared, compare
from ptl_plugins.evaluation.examination import Progress
from ptl_plugins.evaluation.examinee import require_packages
from ptl_plugins.evaluation.saved import require_place, save
from ptl_plugins.evaluation.values import EvaluationError, Settings
from ptl_plugins.manifest import hardware, versions
from ptl_plugins.model_config import model_folder
from ptl_plugins.registry import Registry

if TYPE_CHECKING:
    from ptl_plugins.speed.report import SpeedReport

LOSS = "chain_of_thought"
"""The task that generates nothing."""
SPEEDS = {"speed": "default", "speed_paper": "paper"}
"""Tasks that measure time -> the protocol they follow."""
TASKS = (*BENCHMARKS, LOSS, *SPEEDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRequest:
    """What `ptl eval` is asked for."""

    model: str
    tasks: tuple[str, ...]
    settings: Settings
    baseline: str | None = None
    out: Path | None = None
    fresh: bool = False
    """Whether kept results are measured anew."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that was measured."""

    compared: tuple[Compared, ...]
    loss: tuple[tuple[str, dict[str, float]], ...]
    """Model -> teacher-forced metrics, the baseline's last."""
    speed: tuple[SpeedReport, ...]
    files: tuple[Path, ...]
    """What was written to the place that was asked for."""


def run_eval(
    request: EvalRequest,
    registry: Registry,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Measure a model, against a baseline if one is named, and save the results.

    Args:
        request: what is asked for.
        registry: where families are found.
        progress: told how far a task is.
        say: told what a user should know before anything runs.

    Raises:
        PTLError: a task, its data, a model or a package is not there, or does not fit the others.
    """
    _require_tasks(request)
    require_packages(request.settings.backend)
    if request.out is not None:
        require_place(request.out)
    models = [request.model, *([request.baseline] if request.baseline is not None else [])]
    folders = {name: model_folder(name) for name in models}
    asked = _problems(request)
    contained = containment_lines(request)
    for line in contained:
        say(f"generated programs: {line}")
    benchmarks = [name for name in request.tasks if name in BENCHMARKS]
    started = time.time()
    # minutes beside the benchmarks' hours: what is wrong with it is told before them
    speed = [_speed(request, folders, name) for name in request.tasks if name in SPEEDS]
    compared = []
    if benchmarks:
        compared = compare(
            request.model,
            request.baseline,
            benchmarks,
            request.settings,
            registry,
            fresh=request.fresh,
            progress=progress,
        )
    loss = [(name, _loss(folders[name], asked)) for name in models] if asked else []
    others: dict[str, Any] = {
        "model": request.model,
        "baseline": request.baseline,
        "seconds": round(time.time() - started, 1),
        "loss": dict(loss),
        "speed": [report.to_json() for report in speed],
        "containment": contained,
        "hardware": hardware(),
        "versions": versions(),
    }
    files = save(request.out, compared, others) if request.out is not None else []
    return Evaluation(
        compared=tuple(compared), loss=tuple(loss), speed=tuple(speed), files=tuple(files)
    )


def _require_tasks(request: EvalRequest) -> None:
    """Refuse unknown tasks, a task named twice, and a speed without anything to compare with."""
    for name in request.tasks:
        if name not in TASKS:
            raise EvaluationError(
                f"unknown task '{name}'{did_you_mean(name, TASKS)}; allowed: {', '.join(TASKS)}"
            )
        if request.tasks.count(name) > 1:
            raise EvaluationError(f"task '{name}' is named twice; name it once")
        if name in SPEEDS and request.baseline is None:
            raise EvaluationError(
                f"task '{name}' compares with another model: give it as --baseline"
            )
    if not request.tasks:
        raise EvaluationError(f"no task is named; allowed: {', '.join(TASKS)}")


def _problems(request: EvalRequest) -> list[Any]:
    from ptl_plugins.evaluation.teacher_forced import problems

    return problems(request.settings) if LOSS in request.tasks else []


def _loss(folder: Path, asked: Sequence[Any]) -> dict[str, float]:
    from ptl_plugins.evaluation.teacher_forced import loss_metrics

    return loss_metrics(folder, list(asked))


def _speed(request: EvalRequest, folders: dict[str, Path], name: str) -> SpeedReport:
    from ptl_plugins.speed.measure import measure_speed
    from ptl_plugins.speed.protocol import named

    assert request.baseline is not None
    return measure_speed(
        folders[request.model],
        folders[request.baseline],
        named(SPEEDS[name]),
        backend=request.settings.backend,
    )


def containment_lines(request: EvalRequest) -> list[str]:
    """Return how programs are contained on this machine, where any are run."""
    if not request.settings.allow_code_execution or not any(
        BENCHMARKS[n].scoring == "code" for n in request.tasks if n in BENCHMARKS
    ):
        return []
    from ptl_plugins.code_execution import containment

    return containment().lines()
