"""Marks of answers: by lm-eval's filters, by the math judge, or by running the program."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ptl_plugins.code_execution import Limits, run_program
from ptl_plugins.evaluation.benchmarks import Benchmark
from ptl_plugins.evaluation.math_judge import MathJudge
from ptl_plugins.evaluation.values import EvaluationError, Settings, Status

Sample = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The marks of one answer."""

    status: Status
    marks: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""


class Scorer(Protocol):
    """Scores the answers of one benchmark."""

    process_results: Any
    """What lm-eval calls with a document and its responses; None: its own filters score."""

    @property
    def rule(self) -> str:
        """How it scores here; results by another rule are other results."""
        ...

    def verdict(self, index: int, samples: Sequence[Sample], response: str) -> Scored:
        """Return the marks of the question `index`, and forget it."""
        ...


def scorer_for(benchmark: Benchmark, settings: Settings, judge: Callable[[], MathJudge]) -> Scorer:
    """Return what scores a benchmark.

    Args:
        benchmark: the task.
        settings: whether programs may run.
        judge: gives the judge that all mathematical tasks share, running.

    Raises:
        EvaluationError: it runs programs that a model wrote, and nobody allowed it.
    """
    if benchmark.scoring == "lm_eval":
        return FilterScorer(benchmark)
    if benchmark.scoring == "math":
        return MathScorer(benchmark, judge())
    if not settings.allow_code_execution:
        raise EvaluationError(
            f"task '{benchmark.name}' runs programs that the model writes: allow it with "
            "--allow-code-execution (in a recipe allow_code_execution: true); "
            "docs/code_execution.md says how they are contained"
        )
    return CodeScorer(benchmark)


class FilterScorer:
    """lm-eval's own filters and metric: a mark per filter, named after it."""

    process_results = None
    rule = "lm-eval's filters"

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    def verdict(self, index: int, samples: Sequence[Sample], response: str) -> Scored:
        """Return the marks that lm-eval gave."""
        found = {s["filter"].replace("-", "_"): float(s["exact_match"]) for s in samples}
        marks = {name: found[name] for name in self.benchmark.marks}
        return Scored(status="scored" if response.strip() else "empty", marks=marks)


class OwnScorer(abc.ABC):
    """Scores inside lm-eval's `process_results`, and keeps what it cannot carry."""

    rule = ""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self._scored: dict[int, Scored] = {}

        # a closure, not a bound method: lm-eval copies the config deeply, and this with it
        def process_results(doc: Sample, responses: Sequence[str]) -> dict[str, float]:
            scored = self._judge(doc, responses[0])
            self._scored[doc["index"]] = scored
            return {name: scored.marks.get(name, 0.0) for name in benchmark.marks}

        self.process_results = process_results

    def verdict(self, index: int, samples: Sequence[Sample], response: str) -> Scored:
        """Return what was scored."""
        return self._scored.pop(index)

    def _judge(self, doc: Sample, response: str) -> Scored:
        """Return the marks of a response; an empty one is wrong without a look."""
        if not response.strip():
            return self._wrong("empty", "the model answered nothing")
        return self._score(doc, response)

    @abc.abstractmethod
    def _score(self, doc: Sample, response: str) -> Scored:
        """Return the marks of a response that is not empty."""

    def _wrong(self, status: Status, detail: str) -> Scored:
        return Scored(status=status, marks=dict.fromkeys(self.benchmark.marks, 0.0), detail=detail)


class MathScorer(OwnScorer):
    """Mathematical answers, compared by math-verify and by Minerva's rule in another process."""

    def __init__(self, benchmark: Benchmark, judge: MathJudge) -> None:
        super().__init__(benchmark)
        self.judge = judge

    @property
    def rule(self) -> str:  # type: ignore[override]
        """How Minerva's `exact_match` compares here: by sympy, or texts alone."""
        return f"math-verify; exact_match by {self.judge.exact_match_rule}"

    def _score(self, doc: Sample, response: str) -> Scored:
        verdict = self.judge.judge(
            response, solution=doc["solution"] or None, answer=doc["answer"] or None
        )
        if verdict.status == "unreadable_gold":
            return Scored(status="unreadable_gold", detail=verdict.detail)
        if verdict.status != "judged":
            return self._wrong(verdict.status, verdict.detail)
        marks = {name: float(verdict.marks[name]) for name in self.benchmark.marks}
        return Scored(status="scored", marks=marks)


class CodeScorer(OwnScorer):
    """Programs, run with their tests in a contained process."""

    rule = f"the first three tests pass in a contained process, {Limits()}"

    def _score(self, doc: Sample, response: str) -> Scored:
        result = run_program("\n".join([response, *doc["test_list"][:3]]))
        if result.passed:
            return Scored(status="scored", marks={self.benchmark.marks[0]: 1.0})
        return self._wrong("scored", f"{result.outcome}: {result.detail}")
