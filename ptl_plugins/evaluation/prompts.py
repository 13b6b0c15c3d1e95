"""A benchmark as a task of lm-eval: upstream's prompt and examples, or a zero-shot chat."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptl_plugins.evaluation.benchmarks import INSTRUCTION, Benchmark
from ptl_plugins.evaluation.upstream_tasks import load_task_config, load_task_functions
from ptl_plugins.evaluation.values import EvaluationError, Settings

QWEN_MATH = (
    "<|im_start|>system\n" + INSTRUCTION + "<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""The prompt that Qwen's math models, and those trained from them by GRPO, are asked with."""
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>")
"""Texts that end an answer in the families' chat forms; a model ends at its own EOS as well."""
ProcessResults = Callable[[Mapping[str, Any], Sequence[str]], dict[str, float]]


def task_config(
    benchmark: Benchmark, settings: Settings, process_results: ProcessResults | None
) -> dict[str, Any]:
    """Return lm-eval's config of a benchmark, without its data.

    Args:
        benchmark: its `upstream` task gives prompt, examples, stops, and filters if it scores.
        settings: the limit of new tokens, and the template of a chat task.
        process_results: turns a document and its responses into marks; None: lm-eval's filters.
    """
    config = _chat(benchmark, settings) if benchmark.is_chat else _few_shot(benchmark)
    generation = config["generation_kwargs"]
    generation["max_gen_toks"] = new_tokens(benchmark, settings)
    if process_results is not None:
        config["process_results"] = process_results
        config["metric_list"] = [
            {"metric": mark, "aggregation": "mean", "higher_is_better": True}
            for mark in benchmark.marks
        ]
    return config | {"task": benchmark.name, "test_split": "test", "output_type": "generate_until"}


def new_tokens(benchmark: Benchmark, settings: Settings) -> int:
    """Return the limit of an answer in tokens."""
    return settings.max_new_tokens or benchmark.max_new_tokens


def chat_arguments(benchmark: Benchmark, settings: Settings, tokenizer: Any) -> dict[str, Any]:
    """Return how lm-eval applies the model's chat template.

    Raises:
        EvaluationError: the task is a chat, and the model has no template.
    """
    if not benchmark.is_chat or settings.chat_template == "qwen_math":
        return {}
    if not getattr(tokenizer, "chat_template", None):
        raise EvaluationError(
            f"task '{benchmark.name}' is a chat, and the model's tokenizer has no chat template; "
            "give --chat-template qwen_math (in a recipe chat_template: qwen_math) for a model of "
            "that form, or take the few-shot task"
        )
    system = INSTRUCTION if _takes_system(tokenizer) else None
    return {"apply_chat_template": True, "system_instruction": system}


def chat_question(doc: Mapping[str, Any], *, settings: Settings, in_turn: bool) -> str:
    """Return what the user says in a chat: the question, with the instruction where it belongs.

    Args:
        doc: the question.
        settings: the template.
        in_turn: whether the template knows no system message (Gemma2).
    """
    asked = str(doc.get("problem") or doc.get("question"))
    if settings.chat_template == "qwen_math":
        return QWEN_MATH.replace("{question}", asked)
    return f"{INSTRUCTION}\n\n{asked}" if in_turn else asked


def _few_shot(benchmark: Benchmark) -> dict[str, Any]:
    assert benchmark.upstream is not None
    config = copy.deepcopy(load_task_config(benchmark.upstream))
    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "tag",
                "validation_split", "process_docs", "unsafe_code", "metadata", "task"):  # fmt: skip
        config.pop(key, None)
    if benchmark.scoring != "lm_eval":
        functions = load_task_functions("minerva_math" if benchmark.scoring == "math" else "mbpp")
        config["fewshot_config"]["samples"] = functions.list_fewshot_samples()
        if benchmark.scoring == "math":
            config["doc_to_text"] = functions.doc_to_text
            config["doc_to_target"] = _solution_or_answer
    config["generation_kwargs"] = dict(config["generation_kwargs"])
    return config


def _solution_or_answer(doc: Mapping[str, Any]) -> str:
    """Return an example's solution, which the prompt shows, or a question's gold answer."""
    return str(doc["solution"] or doc.get("answer", ""))


def _chat(benchmark: Benchmark, settings: Settings) -> dict[str, Any]:
    return {
        "doc_to_target": lambda doc: str(doc["answer"] or doc["solution"]),
        "num_fewshot": 0,
        "generation_kwargs": {"do_sample": False, "until": list(TURN_ENDS)},
    }


def _takes_system(tokenizer: Any) -> bool:
    """Whether the chat template shows a system message; Gemma2's raises, others leave it out.

    Raises:
        EvaluationError: the template is none.
    """
    import jinja2

    system = {"role": "system", "content": INSTRUCTION}
    turns = [system, {"role": "user", "content": "Why?"}]
    try:
        return INSTRUCTION in tokenizer.apply_chat_template(turns, tokenize=False)
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise EvaluationError(
            f"the model's chat template is broken ({error.message}); mend it, or give "
            "--chat-template qwen_math"
        ) from None
    except jinja2.exceptions.TemplateError:
        return False
