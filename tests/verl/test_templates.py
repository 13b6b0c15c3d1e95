"""The prompt templates, rendered as the frameworks render them."""

from pathlib import Path

import jinja2
import jinja2.meta
import pytest

import verl_ext
from ptl_plugins.testing import tiny_tokenizer

FOLDER = Path(verl_ext.__file__).parent / "templates"
QUESTION = " What is $\\frac{1}{2} + {{x}}$?\n"


def text_of(name):
    return (FOLDER / f"{name}.jinja").read_text(encoding="ascii")


def test_each_template_is_tested_here():
    assert {file.stem for file in FOLDER.iterdir()} == {"think_boxed", "boxed", "plain_chat"}


@pytest.mark.parametrize("name", ["think_boxed", "boxed"])
def test_a_prompt_holds_the_question_as_it_is_and_asks_for_a_box(name):
    # EasyR1: Template(text.strip()).render(content=...)
    prompt = jinja2.Template(text_of(name).strip()).render(content=QUESTION)
    assert prompt.startswith(QUESTION.strip() + "\n\n")
    assert r"\boxed{}" in prompt
    assert ("<think>" in prompt) == ("</think>" in prompt) == (name == "think_boxed")


@pytest.mark.parametrize("name", ["think_boxed", "boxed"])
def test_a_prompt_has_the_question_as_its_only_variable(name):
    parsed = jinja2.Environment().parse(text_of(name))
    assert jinja2.meta.find_undeclared_variables(parsed) == {"content"}


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 2?"},
]


def chat(messages, **settings):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text_of("plain_chat")
    return tokenizer.apply_chat_template(messages, tokenize=False, **settings)


def test_a_base_model_gets_a_plain_chat():
    assert chat(MESSAGES, add_generation_prompt=True) == (
        "<s>Be brief.\n\nUser: 1 + 1?\n\nAssistant: 2</s>\n\nUser: 2 + 2?\n\nAssistant:"
    )


def test_the_next_turn_is_opened_only_on_request():
    assert chat(MESSAGES[:2]) == "<s>Be brief.\n\nUser: 1 + 1?\n\n"


def test_a_plain_chat_needs_no_special_tokens():
    template = jinja2.Template(text_of("plain_chat"))
    assert template.render(messages=MESSAGES[1:3]) == "User: 1 + 1?\n\nAssistant: 2\n\n"


def test_a_plain_chat_is_tokenised_with_one_begin_token():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text_of("plain_chat")
    encoded = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert encoded["input_ids"].count(tokenizer.bos_token_id) == 1
