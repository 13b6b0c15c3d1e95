"""What is fed to the model, and what each answer took."""

from __future__ import annotations

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ptl_plugins.evaluation.asking import quiet
from ptl_plugins.evaluation.counting_lm import CountingLM, RowStop
from ptl_plugins.testing.tiny import tiny_model, tiny_tokenizer

BOS = 1


def tokenizer_that_adds_bos():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def fed(tokenizer, prompt, *, needs_bos=True) -> list[int]:
    with quiet():
        lm = CountingLM(tiny_model("gemma2"), tokenizer, batch_size=2, needs_bos=needs_bos)
    return lm.tok_batch_encode([prompt, prompt])[0][0].tolist()


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), tokenizer_that_adds_bos()])
@pytest.mark.parametrize("prompt", ["What is 1?", "<s>What is 1?"])
def test_a_family_that_needs_bos_gets_exactly_one(tokenizer, prompt):
    ids = fed(tokenizer, prompt)
    assert ids[0] == BOS
    assert ids.count(BOS) == 1


def test_other_families_do_as_their_tokenizer_says():
    assert BOS not in fed(tiny_tokenizer(), "What is 1?", needs_bos=False)
    assert fed(tokenizer_that_adds_bos(), "What is 1?", needs_bos=False)[0] == BOS


def test_a_row_stops_at_its_own_stop_text_and_tells_where():
    tokenizer = tiny_tokenizer()
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in ("1?2?3?", "1?=?3?", "1?2?=?")])
    prompt = torch.full((3, 2), 7)
    stop = RowStop(tokenizer, ["=?", "nothing"], prompt_length=2)
    states = [
        stop(torch.cat([prompt, ids[:, :taken]], dim=1), None).tolist()
        for taken in range(1, ids.shape[1] + 1)
    ]
    assert stop.stopped_at == {1: 4, 2: 6}
    assert [state[0] for state in states] == [False] * 6
    assert [state[1] for state in states] == [False] * 3 + [True] * 3
    assert [state[2] for state in states] == [False] * 5 + [True]


def test_a_stop_text_in_the_prompt_stops_nothing():
    tokenizer = tiny_tokenizer()
    prompt = torch.tensor([tokenizer("Question: Question:")["input_ids"]])
    stop = RowStop(tokenizer, ["Question:"], prompt_length=prompt.shape[1])
    answer = torch.tensor([tokenizer("4")["input_ids"]])
    assert stop(torch.cat([prompt, answer], dim=1), None).tolist() == [False]
