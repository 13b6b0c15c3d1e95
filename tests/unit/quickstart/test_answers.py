"""Reading the number off a generated answer, and stopping once it stands there."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ptl_plugins.errors import PTLError
from ptl_plugins.quickstart import answers


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<eos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", padding_side="left"
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 3+4=7\n#### 7", "7"),
        (" #### $1,200.00\n", "1200"),
        ("#### -5", "-5"),
        ("#### \u20ac-5", "-5"),
        ("#### 7. And 8", "7"),
        ("####12", "12"),
        ("So she has 9 left, that is 10 in all.", "10"),
        ("It is 4.\nQuestion: There are 6?\nAnswer: 6", "4"),
        ("between 3-5", "5"),
        ("#### 12 apples\n#### 13", "12"),
    ],
)
def test_the_number_of_an_answer(text, number):
    assert answers.extract_number(text) == Decimal(number)


def test_an_answer_without_a_number_is_wrong_not_an_error():
    assert answers.extract_number("I do not know.") is None
    assert not answers.is_right("I do not know.", "3")


@pytest.mark.parametrize(
    ("text", "result", "right"),
    [
        ("#### 1,200", "1200", True),
        ("#### 36.0", "36", True),
        ("#### $36.", "36", True),
        ("#### 36.5", "36", False),
        ("#### 360", "36", False),
        ("#### -36", "36", False),
    ],
)
def test_numbers_are_compared_as_numbers(text, result, right):
    assert answers.is_right(text, result) is right


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("so 12\n#### 12\n", True),
        ("so 12\n#### $1,200 in all\n", True),
        ("so 12\n#### 12", False),
        ("so 12\n#### \n", False),
        ("so 12\n\nQuestion:", True),
        ("so 12\n", False),
    ],
)
def test_a_row_stops_once_its_last_line_is_complete(tokenizer, text, stops):
    asked = tokenizer("#### 5\n")["input_ids"]
    row = torch.tensor([asked + tokenizer(text)["input_ids"]])
    finished = answers.FinishedAnswer(tokenizer, prompt_length=len(asked))(row, None)
    assert finished.tolist() == [stops]


def test_generation_ends_when_all_rows_have_stopped(model, tokenizer, monkeypatch):
    monkeypatch.setattr(answers, "FINISHED", re.compile("(?s)^..."))
    for text in answers.generate(model, tokenizer, ["one", "three"], max_new_tokens=20):
        assert len(tokenizer(text)["input_ids"]) <= 3 * 4  # at most 4 bytes a character
    monkeypatch.setattr(answers, "FINISHED", re.compile("$^"))
    lengths = [len(text) for text in answers.generate(model, tokenizer, ["one"], max_new_tokens=20)]
    assert lengths[0] > 3


def test_an_answer_does_not_depend_on_the_others_in_its_batch(model, tokenizer):
    prompts = ["Question: How many?\nAnswer:", "Hm", "Question: 12 and 13 are what?\nAnswer:"]
    together = answers.generate(model, tokenizer, prompts, max_new_tokens=12)
    alone = [answers.generate(model, tokenizer, [p], max_new_tokens=12)[0] for p in prompts]
    assert together == alone
    assert len(set(together)) > 1


def write_problems(path, results):
    rows = [{"question": f"{'x' * (9 - n)} {n}?", "result": r} for n, r in enumerate(results)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_accuracy_counts_the_first_problems_and_reports_progress(tmp_path, monkeypatch):
    def four(model, tokenizer, prompts, *, max_new_tokens):
        assert all(prompt.endswith("\nAnswer:") for prompt in prompts)
        return [" #### 4\n"] * len(prompts)

    monkeypatch.setattr(answers, "generate", four)
    monkeypatch.setattr(answers, "_load", lambda folder: (None, None))
    progress = []
    result = answers.answer_accuracy(
        tmp_path,
        write_problems(tmp_path / "held_out.jsonl", ["4", "5", "4.0", "6", "4"]),
        num_problems=4,
        max_new_tokens=8,
        batch_size=3,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert (result.num_problems, result.num_correct, result.accuracy) == (4, 2, 0.5)
    assert result.standard_error == pytest.approx(0.25)
    assert progress == [(3, 4), (4, 4)]


def test_a_checkpoint_folder_is_read_and_answers(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    held_out = write_problems(tmp_path / "held_out.jsonl", ["1", "2", "3"])
    result = answers.answer_accuracy(
        tmp_path / "model", held_out, num_problems=2, max_new_tokens=4, batch_size=2
    )
    assert result.num_problems == 2
    assert result.seconds > 0


@pytest.mark.parametrize("text", ["", '{"question": "a"}\n'])
def test_a_file_without_problems_is_refused(tmp_path, text):
    (tmp_path / "held_out.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(PTLError, match="'question' and 'result'"):
        answers.answer_accuracy(tmp_path, tmp_path / "held_out.jsonl")
