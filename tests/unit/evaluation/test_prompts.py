"""Prompts of lm-eval's tasks and of chats."""

from __future__ import annotations

import pytest

from ptl_plugins.evaluation.benchmarks import BENCHMARKS, INSTRUCTION, find_benchmark
from ptl_plugins.evaluation.prompts import (
    chat_arguments,
    chat_question,
    new_tokens,
    task_config,
)
from ptl_plugins.evaluation.values import EvaluationError, Settings
from ptl_plugins.testing.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
CHATS = [name for name, benchmark in BENCHMARKS.items() if benchmark.is_chat]


def tokenizer_with(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_few_shot_tasks_have_upstreams_shots_and_stops():
    shots = {"gsm8k_cot": 8, "minerva_math": 4, "math500": 4, "minerva_ocw": 4, "mbpp": 3}
    for name, number in shots.items():
        config = task_config(find_benchmark(name), Settings(), None)
        assert config["num_fewshot"] == number
        assert len(config["fewshot_config"]["samples"]) >= number
        assert config["generation_kwargs"]["do_sample"] is False
        assert config["generation_kwargs"]["max_gen_toks"] == 256
    assert {name for name, b in BENCHMARKS.items() if not b.is_chat} == set(shots)


def test_a_task_does_not_change_what_the_next_one_reads():
    first = task_config(find_benchmark("mbpp"), Settings(max_new_tokens=7), None)
    first["generation_kwargs"]["until"].append("changed")
    second = task_config(find_benchmark("mbpp"), Settings(), None)
    assert second["generation_kwargs"]["max_gen_toks"] == 256
    assert "changed" not in second["generation_kwargs"]["until"]


IGNORES_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages[1:] %}")


@pytest.mark.parametrize("name", CHATS)
def test_chats_are_zero_shot_with_room_for_3000_tokens(name):
    assert task_config(find_benchmark(name), Settings(), None)["num_fewshot"] == 0
    assert new_tokens(find_benchmark(name), Settings()) == 3000
    assert new_tokens(find_benchmark(name), Settings(max_new_tokens=50)) == 50


def test_a_template_that_takes_a_system_message_gets_the_instruction_there():
    chat = find_benchmark("math500_chat")
    arguments = chat_arguments(chat, Settings(), tokenizer_with(CHATML))
    assert arguments == {"apply_chat_template": True, "system_instruction": INSTRUCTION}
    assert chat_question({"problem": "Why?"}, settings=Settings(), in_turn=False) == "Why?"


@pytest.mark.parametrize("template", [NO_SYSTEM, IGNORES_SYSTEM])
def test_a_template_that_refuses_one_or_drops_it_gets_it_in_the_users_turn(template):
    chat = find_benchmark("math500_chat")
    arguments = chat_arguments(chat, Settings(), tokenizer_with(template))
    assert arguments["system_instruction"] is None
    said = chat_question({"problem": "Why?"}, settings=Settings(), in_turn=True)
    assert said == f"{INSTRUCTION}\n\nWhy?"


def test_a_chat_without_a_template_is_refused_in_one_line():
    with pytest.raises(EvaluationError, match="--chat-template qwen_math") as error:
        chat_arguments(find_benchmark("gsm8k_chat"), Settings(), tokenizer_with(None))
    assert "\n" not in str(error.value)


def test_a_broken_template_is_refused_in_one_line():
    with pytest.raises(EvaluationError, match="template is broken"):
        chat_arguments(find_benchmark("gsm8k_chat"), Settings(), tokenizer_with("{% if %}"))


def test_the_own_chatml_template_and_qwen_math_ask_the_same():
    turns = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "Why?"}]
    own = tokenizer_with(CHATML).apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    form = Settings(chat_template="qwen_math")
    assert chat_question({"problem": "Why?"}, settings=form, in_turn=False) == own


def test_few_shot_tasks_use_no_chat_template():
    assert chat_arguments(find_benchmark("math500"), Settings(), tokenizer_with(CHATML)) == {}
