"""Answers and their log-probabilities, against plain forward passes of the same model."""

from __future__ import annotations

import pytest
import torch

from verl_ext.in_verl.hf_generation import Sampling, generate

GREEDY = Sampling(temperature=0, log_probs=True)


def distribution(model, ids, *, temperature=1.0, top_p=1.0):
    """Return the log-probabilities of the next token, worked out here from the logits alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double() / (temperature or 1)
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        outside = order[ordered.cumsum(-1) - ordered >= top_p]
        logits[outside] = -torch.inf
    return logits.log_softmax(-1)


def check_log_probs(model, prompt, answer, **sampling):
    for index, (token, log_prob) in enumerate(zip(answer.tokens, answer.log_probs, strict=True)):
        expected = distribution(model, prompt + answer.tokens[:index], **sampling)[token]
        assert log_prob == pytest.approx(float(expected), abs=2e-4)


def test_a_batch_is_answered_as_each_prompt_alone(model, prompts):
    together = generate(model, prompts, [12] * 4, GREEDY)
    alone = [generate(model, [prompt], [12], GREEDY)[0] for prompt in prompts]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert len({tuple(answer.tokens) for answer in together}) == 4


def test_temperature_zero_takes_the_likeliest(model, prompts):
    (answer,) = generate(model, prompts[:1], [6], GREEDY)
    for index, token in enumerate(answer.tokens):
        assert token == int(distribution(model, prompts[0] + answer.tokens[:index]).argmax())


@pytest.mark.parametrize(
    "choice",
    [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 1.7},
        {"temperature": 0.6},
        {"temperature": 1.3, "top_p": 0.5},
    ],
)
def test_log_probs_are_of_the_distribution_that_was_drawn_from(model, prompts, choice):
    torch.manual_seed(0)
    sampling = Sampling(log_probs=True, **choice)
    for prompt, answer in zip(prompts, generate(model, prompts, [8] * 4, sampling), strict=True):
        check_log_probs(model, prompt, answer, **choice)


def test_tokens_are_drawn_in_proportion(model, prompts):
    torch.manual_seed(1)
    answers = generate(model, prompts[:1] * 2000, [1] * 2000, Sampling(temperature=0.8, top_p=0.7))
    drawn = torch.bincount(torch.tensor([a.tokens[0] for a in answers]), minlength=256) / 2000
    expected = distribution(model, prompts[0], temperature=0.8, top_p=0.7).exp()
    assert int((expected > 0).sum()) > 2, "nothing to tell apart"
    assert float((drawn - expected).abs().max()) < 0.05
    assert not drawn[expected == 0].any()


def test_an_answer_ends_with_the_first_of_several_end_tokens(model, prompts):
    whole = [answer.tokens for answer in generate(model, prompts, [12] * 4, GREEDY)]
    ends = (whole[0][3], whole[1][7])
    cut = generate(model, prompts, [12] * 4, Sampling(temperature=0, log_probs=True, eos=ends))
    for before, after in zip(whole, cut, strict=True):
        first = next((i for i, token in enumerate(before) if token in ends), len(before) - 1)
        assert after.tokens == before[: first + 1]
        assert len(after.log_probs) == len(after.tokens)
    assert len(cut[0].tokens) <= 4
    assert len(cut[1].tokens) <= 8


def test_each_prompt_has_a_limit_of_its_own(model, prompts):
    whole = generate(model, prompts, [12] * 4, GREEDY)
    cut = generate(model, prompts, [1, 12, 5, 2], GREEDY)
    assert [len(answer.tokens) for answer in cut] == [1, 12, 5, 2]
    for before, after in zip(whole, cut, strict=True):
        assert after.tokens == before.tokens[: len(after.tokens)]
        assert len(after.log_probs) == len(after.tokens)


def test_log_probs_that_nobody_wants_are_not_made(model, prompts):
    (answer,) = generate(model, prompts[:1], [3], Sampling(temperature=0))
    assert answer.log_probs is None
