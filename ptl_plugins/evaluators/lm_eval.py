"""The evaluator `lm_eval`: accuracy of generated answers on benchmarks, in the rounds of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.given_path import is_folder
from ptl_plugins.types import RoundContext, Subject

if TYPE_CHECKING:
    from ptl_plugins.evaluation.benchmarks import Benchmark
    from ptl_plugins.evaluation.examination import Exam
    from ptl_plugins.evaluation.values import QuestionResult, Settings

FOLDER = "evaluation"
"""In a round's folder: a folder per measurement, with a jsonl file of questions per task."""


class LmEvalSettings(pydantic.BaseModel):
    """The evaluator's own keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    tasks: tuple[str, ...] = pydantic.Field(min_length=1, strict=False)
    data_dir: str | None = None
    limit: int | None = pydantic.Field(None, ge=1)
    batch_size: int = pydantic.Field(8, ge=1)
    max_new_tokens: int | None = pydantic.Field(None, ge=1)
    chat_template: str = pydantic.Field("own", pattern="^(own|qwen_math)$")
    allow_code_execution: bool = False


class LmEval:
    """Metrics `TASK_accuracy`, `TASK_tokens` and `TASK_flops` (per question), on benchmarks.

    Settings: `tasks` (names as in `ptl eval --tasks`), `data_dir` (unset, the hub), `limit`
    (the first so many questions), `batch_size`, `max_new_tokens`, `chat_template` (own or
    qwen_math), `allow_code_execution` (for mbpp).
    """

    def check(self, settings: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the settings in one line, or None."""
        from ptl_plugins.evaluation.benchmarks import BENCHMARKS, find_benchmark

        if "chain_of_thought" in _names(settings):
            return "tasks: 'chain_of_thought' is an evaluator of its own, not a task of this one"
        try:
            chosen = LmEvalSettings.model_validate(dict(settings))
            benchmarks = [find_benchmark(name) for name in chosen.tasks]
        except pydantic.ValidationError as error:
            return _explain(error)
        except PTLError as error:
            return f"tasks: {error}"
        if len(set(chosen.tasks)) < len(chosen.tasks):
            return f"tasks: one is named twice in {', '.join(chosen.tasks)}"
        runs_code = [b.name for b in benchmarks if b.scoring == "code"]
        if runs_code and not chosen.allow_code_execution:
            return (
                f"tasks: '{runs_code[0]}' runs programs that the model writes; say "
                f"allow_code_execution: true, or take others of {', '.join(BENCHMARKS)}"
            )
        if chosen.data_dir is not None and not is_folder(chosen.data_dir):
            return f"data_dir: '{chosen.data_dir}' is no folder"
        return _missing(benchmarks, chosen.data_dir)

    def evaluate(
        self, ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """Ask the live model, each rank its share; what a checkpoint was asked before is kept."""
        from ptl_plugins.code_execution import containment
        from ptl_plugins.evaluation import summary
        from ptl_plugins.evaluation.examination import prepared
        from ptl_plugins.evaluation.examinee import require_packages

        require_packages()
        asked = _settings(settings)
        if asked.allow_code_execution:
            for line in containment().lines():
                ctx.log.say(f"generated programs: {line}")
        values: dict[str, float] = {}
        with prepared(LmEvalSettings.model_validate(dict(settings)).tasks, asked) as exams:
            for exam in exams:
                results = _results(ctx, subject, exam)
                _write(ctx, exam, results)
                values |= summary.metrics(
                    summary.summarize(exam.name, exam.benchmark.marks, results)
                )
        return values


def _settings(settings: Mapping[str, Any]) -> Settings:
    from ptl_plugins.evaluation.values import Settings

    chosen = LmEvalSettings.model_validate(dict(settings)).model_dump()
    del chosen["tasks"]
    return Settings(**chosen)


def _results(ctx: RoundContext, subject: Subject, exam: Exam) -> list[QuestionResult]:
    from ptl_plugins.evaluation.examination import about, examine, kept, model_digest
    from ptl_plugins.evaluation.examinee import live_examinee
    from ptl_plugins.geometry import geometry
    from ptl_plugins.live import evaluating, stored_weights

    if subject.model is None or subject.tokenizer is None:
        raise PTLError("evaluator 'lm_eval' needs a live model")
    sizes = geometry(subject.model.config.to_dict(), subject.family)
    with stored_weights(subject.model, subject.stored_dtype), evaluating(subject.model):
        examinee = live_examinee(
            subject.model, subject.tokenizer, subject.family, sizes, exam.settings
        )
        if subject.path is None:  # a live model is in training: there is nothing to know it by
            return examine(exam, examinee, ctx.ranks)
        described = about(exam, subject.path, model_digest(subject.path))
        store = kept(exam, described)
        with store.opened(described):
            return examine(exam, examinee, ctx.ranks, store=store)


def _write(ctx: RoundContext, exam: Exam, results: list[QuestionResult]) -> None:
    """Keep every question's result in the run folder, in the main rank."""
    from ptl_plugins.evaluation.result_store import write_results

    if ctx.run.writes:
        folder = ctx.folder / FOLDER / ctx.log.step
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder / f"{exam.name}.jsonl", results)


def _names(settings: Mapping[str, Any]) -> list[Any]:
    tasks = settings.get("tasks")
    return tasks if isinstance(tasks, list) else []


def _missing(benchmarks: Sequence[Benchmark], data_dir: str | None) -> str | None:
    """Return which data the folder lacks, or None."""
    from ptl_plugins.evaluation.question_files import data_file

    if data_dir is None:
        return None
    try:
        for benchmark in benchmarks:
            data_file(benchmark.data, data_dir)
    except PTLError as error:
        return f"data_dir: {error}"
    return None


ALLOWED = {
    "tasks": "a list of at least one task, such as [gsm8k_cot, math500]",
    "data_dir": "a folder",
    "limit": "a whole number >= 1",
    "batch_size": "a whole number >= 1",
    "max_new_tokens": "a whole number >= 1",
    "chat_template": "own or qwen_math",
    "allow_code_execution": "true or false",
}
"""What each key may be, for the user."""


def _explain(error: pydantic.ValidationError) -> str:
    """Return the first problem as one line."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    if key not in ALLOWED:
        return f"unknown key '{key}'{did_you_mean(key, ALLOWED)}; allowed: {', '.join(ALLOWED)}"
    if first["type"] == "missing":
        return f"{key} is missing; give {ALLOWED[key]}"
    return f"{key}: {first['input']!r} is not {ALLOWED[key]}"
