"""The benchmarks that PTL knows: their data, prompts, marks and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptl_plugins.errors import did_you_mean
from ptl_plugins.evaluation.upstream_tasks import TaskName
from ptl_plugins.evaluation.values import EvaluationError

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The system message of the chat tasks, which the qwen_math template has too."""
CHAT_TOKENS = 3000
"""New tokens of a chat answer, as in the paper's GRPO rollouts and their evaluation."""
FEW_SHOT_TOKENS = 256
"""New tokens of a few-shot answer: lm-eval's own default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Where a benchmark's questions are."""

    name: str
    files: tuple[str, ...]
    """Below `--data-dir`; the first that is there is read."""
    hub: str
    """The data set's name on the hub."""
    subsets: tuple[str, ...]
    """Its configurations, one after the other."""
    split: str
    question: tuple[str, ...]
    """Columns that may hold the question, the first that is there."""
    gold: tuple[str, ...]
    """Columns that may hold the true answer or the worked solution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A task: a data set, how it is asked and how it is scored."""

    name: str
    data: DataSet
    scoring: Literal["lm_eval", "math", "code"]
    """By lm-eval's own filters, by the math judge, or by running the program."""
    marks: tuple[str, ...]
    """Names of the marks; the first is the accuracy."""
    upstream: TaskName | None
    """The task of lm-eval whose prompt, shots and stops it has; None: zero-shot chat."""
    max_new_tokens: int = FEW_SHOT_TOKENS

    @property
    def is_chat(self) -> bool:
        """Whether it is asked by a chat template, without examples."""
        return self.upstream is None


MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
GSM8K = DataSet(
    name="GSM8K",
    files=("gsm8k/test.jsonl", "gsm8k.jsonl"),
    hub="openai/gsm8k",
    subsets=("main",),
    split="test",
    question=("question",),
    gold=("answer",),
)
MATH = DataSet(
    name="MATH",
    files=("MATH/test.jsonl", "math/test.jsonl", "hendrycks_math/test.jsonl"),
    hub="EleutherAI/hendrycks_math",
    subsets=MATH_SUBJECTS,
    split="test",
    question=("problem",),
    gold=("solution",),
)
MATH500 = DataSet(
    name="MATH-500",
    files=("math500/test.jsonl", "math500.jsonl"),
    hub="HuggingFaceH4/MATH-500",
    subsets=("default",),
    split="test",
    question=("problem",),
    gold=("solution", "answer"),
)
MINERVA_OCW = DataSet(
    name="the 272 OpenCourseWare problems",
    files=("minerva_math/test.jsonl", "minerva_ocw/test.jsonl", "minerva_ocw.jsonl"),
    hub="math-ai/minervamath",
    subsets=("default",),
    split="test",
    question=("problem", "question"),
    gold=("solution", "answer"),
)
MBPP = DataSet(
    name="MBPP",
    files=("mbpp/test.jsonl", "mbpp/mbpp.jsonl", "mbpp.jsonl"),
    hub="google-research-datasets/mbpp",
    subsets=("full",),
    split="test",
    question=("text",),
    gold=("test_list",),
)
MATH_MARKS = ("math_verify", "exact_match")


def _few_shot_math(name: str, data: DataSet) -> Benchmark:
    return Benchmark(
        name=name, data=data, scoring="math", marks=MATH_MARKS, upstream="minerva_math_algebra"
    )


def _chat(name: str, data: DataSet) -> Benchmark:
    return Benchmark(
        name=name,
        data=data,
        scoring="math",
        marks=MATH_MARKS[:1],
        upstream=None,
        max_new_tokens=CHAT_TOKENS,
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="gsm8k_cot",
            data=GSM8K,
            scoring="lm_eval",
            marks=("strict_match", "flexible_extract"),
            upstream="gsm8k_cot",
        ),
        _few_shot_math("minerva_math", MATH),
        _few_shot_math("math500", MATH500),
        _few_shot_math("minerva_ocw", MINERVA_OCW),
        Benchmark(name="mbpp", data=MBPP, scoring="code", marks=("pass_at_1",), upstream="mbpp"),
        _chat("gsm8k_chat", GSM8K),
        _chat("minerva_math_chat", MATH),
        _chat("math500_chat", MATH500),
        _chat("minerva_ocw_chat", MINERVA_OCW),
    )
}
"""By name, as `ptl eval --tasks` and the evaluator `lm_eval` take them."""


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark called `name`.

    Raises:
        EvaluationError: there is none; the text lists those there are.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(
            f"unknown task '{name}'{did_you_mean(name, BENCHMARKS)}; allowed: "
            f"{', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]
