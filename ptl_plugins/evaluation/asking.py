"""Asks a model some questions of one benchmark through lm-eval, and scores its answers."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ptl_plugins.evaluation.benchmarks import Benchmark
from ptl_plugins.evaluation.prompts import (
    chat_arguments,
    chat_question,
    new_tokens,
    task_config,
)
from ptl_plugins.evaluation.scoring import Scorer
from ptl_plugins.evaluation.values import (
    EvaluationError,
    Question,
    QuestionResult,
    Settings,
    Usage,
)
from ptl_plugins.flops import question_flops
from ptl_plugins.geometry import Geometry


class AnsweringModel(Protocol):
    """A model of lm-eval that counts its tokens."""

    usage: dict[str, list[Usage]]
    """By prompt, in the order of the requests: two questions may be worded alike."""
    tokenizer: Any
    max_length: int

    def prompt_length(self, prompt: str) -> int:
        """Return the tokens of a prompt."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Examinee:
    """Who is asked."""

    lm: AnsweringModel
    geometry: Geometry | None
    """For FLOPs; None: the family is not known."""


def ask(
    examinee: Examinee,
    benchmark: Benchmark,
    questions: Sequence[Question],
    settings: Settings,
    scorer: Scorer,
) -> list[QuestionResult]:
    """Return what came of each question, in order.

    Questions whose true answer cannot be read are not asked; one whose prompt does not fit the
    model is wrong.

    Raises:
        EvaluationError: a chat task and no chat template, or not even the examples fit.
    """
    unreadable = [_unreadable(question) for question in questions if question.unreadable]
    readable = [question for question in questions if not question.unreadable]
    fitting, too_long = _sorted_by_fit(examinee, benchmark, readable, settings)
    results = unreadable + too_long
    if fitting:
        samples = _run(examinee, benchmark, fitting, settings, scorer)
        results += [
            _result(examinee, benchmark, question, samples[question.index], scorer)
            for question in fitting
        ]
    return sorted(results, key=lambda result: result.index)


def require_room(
    examinee: Examinee, benchmark: Benchmark, questions: Sequence[Question], settings: Settings
) -> None:
    """Refuse a task of which no prompt fits the model.

    Raises:
        EvaluationError: the shortest prompt and the new tokens exceed the model's context.
    """
    readable = [question for question in questions if not question.unreadable]
    shortest = min(readable, key=lambda question: len(question.asked))
    fitting, _ = _sorted_by_fit(examinee, benchmark, [shortest], settings)
    if fitting:
        return
    length = examinee.lm.prompt_length(_prompts(examinee, benchmark, [shortest], settings)[0])
    limit = new_tokens(benchmark, settings)
    raise EvaluationError(
        f"task '{benchmark.name}': its shortest prompt takes {length} tokens and an answer up to "
        f"{limit}, but the model's context is {examinee.lm.max_length}; take a model of a longer "
        "context, fewer new tokens (--max-new-tokens), or a task without examples"
    )


def _sorted_by_fit(
    examinee: Examinee, benchmark: Benchmark, questions: Sequence[Question], settings: Settings
) -> tuple[list[Question], list[QuestionResult]]:
    room = examinee.lm.max_length - new_tokens(benchmark, settings)
    fitting, too_long = [], []
    prompts = _prompts(examinee, benchmark, questions, settings) if questions else []
    for question, prompt in zip(questions, prompts, strict=True):
        length = examinee.lm.prompt_length(prompt)
        if length <= room:
            fitting.append(question)
            continue
        why = f"its prompt takes {length} tokens, the model has room for {max(room, 0)}"
        too_long.append(
            QuestionResult(
                index=question.index,
                status="too_long",
                marks=dict.fromkeys(benchmark.marks, 0.0),
                detail=why,
                prompt_tokens=length,
                prompt=prompt,
            )
        )
    return fitting, too_long


def _prompts(
    examinee: Examinee, benchmark: Benchmark, questions: Sequence[Question], settings: Settings
) -> list[str]:
    """Return the prompts as lm-eval builds them."""
    with quiet():
        task = _task(examinee, benchmark, questions, settings, None)
        task.build_all_requests(**_request_arguments(examinee, benchmark, settings))
    return [instance.args[0] for instance in task.instances]


def _run(
    examinee: Examinee,
    benchmark: Benchmark,
    questions: Sequence[Question],
    settings: Settings,
    scorer: Scorer,
) -> dict[int, list[Mapping[str, Any]]]:
    """Return lm-eval's samples by question: one per filter."""
    from lm_eval.evaluator import evaluate

    with quiet():
        task = _task(examinee, benchmark, questions, settings, scorer)
        found = evaluate(
            lm=examinee.lm,
            task_dict={"tasks": {benchmark.name: task}, "groups": {}},
            bootstrap_iters=0,
            log_samples=True,
            **chat_arguments(benchmark, settings, examinee.lm.tokenizer),
        )
    samples: dict[int, list[Mapping[str, Any]]] = {}
    for sample in found["samples"][benchmark.name]:
        samples.setdefault(sample["doc"]["index"], []).append(sample)
    return samples


def _task(
    examinee: Examinee,
    benchmark: Benchmark,
    questions: Sequence[Question],
    settings: Settings,
    scorer: Scorer | None,
) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = Dataset.from_list([dict(question.doc) for question in questions])
    config = task_config(benchmark, settings, scorer.process_results if scorer else None)
    if benchmark.is_chat:
        arguments = chat_arguments(benchmark, settings, examinee.lm.tokenizer)
        in_turn = bool(arguments) and arguments["system_instruction"] is None
        config["doc_to_text"] = lambda doc: chat_question(doc, settings=settings, in_turn=in_turn)
    return ConfigurableTask(config=config | {"custom_dataset": lambda **_: {"test": rows}})


def _request_arguments(
    examinee: Examinee, benchmark: Benchmark, settings: Settings
) -> dict[str, Any]:
    arguments = chat_arguments(benchmark, settings, examinee.lm.tokenizer)
    if arguments:
        arguments["chat_template"] = getattr(examinee.lm, "apply_chat_template", None)
    return arguments


def _result(
    examinee: Examinee,
    benchmark: Benchmark,
    question: Question,
    samples: Sequence[Mapping[str, Any]],
    scorer: Scorer,
) -> QuestionResult:
    prompt, response = samples[0]["arguments"][0][0], samples[0]["resps"][0][0]
    usage = examinee.lm.usage[prompt].pop(0)
    verdict = scorer.verdict(question.index, samples, response)
    flops = None
    if examinee.geometry is not None:
        flops = question_flops(
            examinee.geometry,
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.generated_tokens,
        )
    return QuestionResult(
        index=question.index,
        status=verdict.status,
        marks=verdict.marks,
        detail=verdict.detail,
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        finish=usage.finish,
        flops=flops,
        prompt=prompt,
        response=response,
        gold=str(samples[0]["target"]),
    )


def _unreadable(question: Question) -> QuestionResult:
    return QuestionResult(
        index=question.index, status="unreadable_gold", detail=question.unreadable
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars, and its notes about how it is called, from the user's screen."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
