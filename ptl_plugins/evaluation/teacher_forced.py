"""The teacher-forced metrics for `ptl eval`: loss of worked answers, and which results are right.

Cheap beside generated answers: one forward pass over GSM8K's questions with their true answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptl_plugins.evaluation.benchmarks import find_benchmark
from ptl_plugins.evaluation.question_files import read_questions
from ptl_plugins.evaluation.values import Settings

NUM_PROBLEMS = 100
PROMPT = "Question: {question}\nAnswer: "


def problems(settings: Settings) -> list[Any]:
    """Return the problems of GSM8K that are measured, 100 unless the settings' limit says.

    Raises:
        PTLError: GSM8K is not in the data folder, or not on the hub.
    """
    from ptl_plugins.evaluators.worked_answer import Problem

    number = settings.limit or NUM_PROBLEMS
    questions = read_questions(find_benchmark("gsm8k_cot"), settings.data_dir)
    readable = [question.doc for question in questions if not question.unreadable]
    return [
        Problem(prompt=PROMPT.replace("{question}", doc["question"]), answer=doc["answer"])
        for doc in readable[:number]
    ]


def loss_metrics(model: Path, asked: list[Any]) -> dict[str, float]:
    """Return `cot_loss` (nats per answer token), `step_accuracy` and the sample's sizes.

    Args:
        model: a checkpoint folder.
        asked: what `problems` returned.
    """
    from ptl_plugins.evaluation.examinee import load
    from ptl_plugins.evaluators import chain_of_thought

    live, tokenizer = load(model)
    counts = chain_of_thought.count_chain_of_thought(live, tokenizer, asked)
    return chain_of_thought.metrics(counts)
