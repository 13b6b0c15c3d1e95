"""Loss and step results against a slow reference that reads token by token."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluators import chain_of_thought
from ptl_plugins.evaluators.chain_of_thought import (
    ChainOfThoughtCounts,
    Problem,
    count_chain_of_thought,
    metrics,
    step_spans,
)

PROBLEMS = [
    Problem(prompt=f"Question: {a} and {b}{' of them' * (a % 4)}?\nAnswer: ", answer=answer)
    for a, b, answer in [
        (12, 30, "He has 12+30=42 pens.\n#### 42"),
        (7, 5, "7 * 5 = 35, so 35 + 100 = 135 in all.\n#### 135"),
        (150, 4, "150/4 = $<<150/4=37.5>>37.5 each\n#### 37.5"),
        (3, 3, "three"),
        (90, 10, "First 90-10=80.\nThen 80 - 1 = 79.\nThen 79*10=790.\n#### 790"),
    ]
]
NUM_RESULTS = [2, 3, 2, 0, 4]


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that joins digits, so that results have one token or several."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [problem.prompt + problem.answer for problem in PROBLEMS]
    backend.train_from_iterator([*texts, "135 135 135 790 790 790"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


class Oracle(torch.nn.Module):
    """Knows the next token of the row it reads, but for the ids in `blind`."""

    def __init__(self, num_tokens, *, blind=()):
        super().__init__()
        self.config = LlamaConfig(vocab_size=num_tokens)
        self.device = torch.device("cpu")
        self.head = torch.nn.Linear(num_tokens, num_tokens, bias=False)
        self.head.weight.data = torch.eye(num_tokens)
        self.head.weight.data[list(blind)] = 0

    def get_output_embeddings(self):
        return self.head

    def get_decoder(self):
        return self.read

    def read(self, *, input_ids, attention_mask, use_cache):
        after = torch.nn.functional.one_hot(input_ids.roll(-1, dims=1), self.head.in_features)

        class Output:
            last_hidden_state = after.float() * 60

        return Output()


@torch.no_grad()
def reference(model, tokenizer, problem, *, cap=None):
    """Return (loss of each answer token, rightness of each result), one token at a time."""
    ids = tokenizer(problem.prompt + problem.answer)["input_ids"] + [tokenizer.eos_token_id]
    ends = [len(tokenizer.decode(ids[: n + 1])) for n in range(len(ids))]
    ends[-1] = ends[-2] + 1
    losses, right = [], {}
    for n in range(1, len(ids)):
        if ends[n] <= len(problem.prompt):
            continue
        logits = model(torch.tensor([ids[:n]])).logits[0, -1].double()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        losses.append(-float(logits.log_softmax(0)[ids[n]]))
        right[n] = int(logits.argmax()) == ids[n]
    results = []
    for start, stop in step_spans(problem.answer):
        start, stop = start + len(problem.prompt), stop + len(problem.prompt)
        tokens = [n for n in right if ends[n - 1] < stop and ends[n] > start]
        results.append(all(right[n] for n in tokens))
    return losses, results


@pytest.mark.parametrize(
    ("answer", "results"),
    [
        ("3+4=7 and 7 * 2 = 14.\n#### 14", ["7", "14", "14"]),
        ("48/2 = <<48/2=24>>24 clips\n#### 24", ["24", "24"]),
        ("12/60 = $<<12/60=0.2>>0.2 per minute", ["0.2"]),
        ("half: <<1/2=.5>>.5", [".5"]),
        ("T = 156 - 136 = 20", ["20"]),
        ("= 136 + T = 156 toys", ["156"]),
        ("2(83+37) = 240; 70 = 2(35)", ["240"]),
        ("42 + 1 = \u20ac1,585. Then 15/60 = 1/4 mile", ["1,585", "1/4"]),
        ("50% * 50% = 25%, 240 / 2 = 120/month", ["25", "120"]),
        ("so x=-5\n####-5", ["-5", "-5"]),
        ("x >= 5 and x = y", []),
    ],
)
def test_results_are_the_numbers_that_an_equals_sign_or_the_last_line_gives(answer, results):
    assert [answer[start:stop] for start, stop in step_spans(answer)] == results


@pytest.mark.parametrize("batch_tokens", [1, 90, 150, 4096])
def test_counts_equal_the_reference_whatever_the_batches(model, tokenizer, batch_tokens):
    expected = [reference(model, tokenizer, problem) for problem in PROBLEMS]
    counts = count_chain_of_thought(model, tokenizer, PROBLEMS, batch_tokens=batch_tokens)
    assert counts.num_tokens == sum(len(losses) for losses, _ in expected)
    assert counts.nll_sum == pytest.approx(sum(sum(losses) for losses, _ in expected), rel=1e-5)
    assert counts.num_steps == sum(NUM_RESULTS)
    assert counts.steps_right == sum(sum(results) for _, results in expected)
    assert (counts.num_problems, counts.num_truncated) == (5, 0)


def test_a_model_that_knows_the_next_token_gets_every_result_and_no_loss(tokenizer):
    counts = count_chain_of_thought(Oracle(len(tokenizer)), tokenizer, PROBLEMS, batch_tokens=150)
    values = metrics(counts)
    assert values["step_accuracy"] == 1.0
    assert values["cot_loss"] < 1e-6
    assert values["num_steps"] == sum(NUM_RESULTS)


def test_a_result_is_wrong_when_one_of_its_tokens_is(tokenizer):
    problem = Problem(prompt="Q ", answer="so 12 = 8642 and 1 = 9")
    pieces = tokenizer.tokenize("8642")
    assert len(pieces) > 1
    oracle = Oracle(len(tokenizer), blind=tokenizer.convert_tokens_to_ids(pieces[-1:]))
    counts = count_chain_of_thought(oracle, tokenizer, [problem])
    assert (counts.steps_right, counts.num_steps) == (1, 2)


def test_the_end_of_text_is_learnt_like_in_training(tokenizer):
    oracle = Oracle(len(tokenizer), blind=[tokenizer.eos_token_id])
    counts = count_chain_of_thought(oracle, tokenizer, PROBLEMS)
    # Without a row of its own the EOS logit is 0, as all others are.
    assert counts.nll_sum == pytest.approx(len(PROBLEMS) * math.log(len(tokenizer)), rel=1e-4)


def test_final_logits_are_capped_where_the_config_says_so(model, tokenizer, monkeypatch):
    plain = count_chain_of_thought(model, tokenizer, PROBLEMS[:1])
    monkeypatch.setattr(model.config, "final_logit_softcapping", 0.5, raising=False)
    capped = count_chain_of_thought(model, tokenizer, PROBLEMS[:1])
    losses, _ = reference(model, tokenizer, PROBLEMS[0], cap=0.5)
    assert capped.nll_sum == pytest.approx(sum(losses), rel=1e-5)
    assert capped.nll_sum != pytest.approx(plain.nll_sum, rel=1e-3)


def test_the_head_sees_answer_positions_only_and_few_at_a_time(model, tokenizer, monkeypatch):
    sizes = []
    handle = model.lm_head.register_forward_hook(lambda *seen: sizes.append(len(seen[2])))
    monkeypatch.setattr(chain_of_thought, "LOGITS_PER_CHUNK", 7 * len(tokenizer))
    small = count_chain_of_thought(model, tokenizer, PROBLEMS)
    handle.remove()
    monkeypatch.undo()
    assert (sum(sizes), max(sizes)) == (small.num_tokens, 7)
    assert small.nll_sum == pytest.approx(
        count_chain_of_thought(model, tokenizer, PROBLEMS).nll_sum, rel=1e-6
    )


def test_a_bos_goes_in_front_only_where_the_tokenizer_says_so(model, tokenizer):
    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token, with_bos.add_bos_token = "<bos>", True
    seen = []
    decoder = model.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    counts = [count_chain_of_thought(model, one, PROBLEMS[:1]) for one in (tokenizer, with_bos)]
    handle.remove()
    assert seen[1] == [with_bos.bos_token_id, *seen[0]]
    assert counts[0].num_tokens == counts[1].num_tokens
    assert counts[0].num_steps == counts[1].num_steps


def test_what_is_cut_off_is_not_counted_but_told(model, tokenizer):
    prompt = PROBLEMS[4].prompt
    length = len(tokenizer(prompt + "First 90-10=80.")["input_ids"])
    counts = count_chain_of_thought(model, tokenizer, [PROBLEMS[4]], max_length=length)
    assert (counts.num_steps, counts.num_truncated) == (1, 1)
    assert counts.num_tokens == length - len(tokenizer(prompt)["input_ids"])
    nothing = count_chain_of_thought(model, tokenizer, [PROBLEMS[4]], max_length=3)
    with pytest.raises(PTLError, match="1 of them cut"):
        metrics(nothing)


def test_counts_of_the_shares_of_ranks_add_up(model, tokenizer):
    whole = count_chain_of_thought(model, tokenizer, PROBLEMS)
    shares = [count_chain_of_thought(model, tokenizer, PROBLEMS[rank::2]) for rank in range(2)]
    total = sum(shares, start=ChainOfThoughtCounts())
    assert metrics(total) == pytest.approx(metrics(whole), rel=1e-6)
    assert count_chain_of_thought(model, tokenizer, []) == ChainOfThoughtCounts()


def test_answers_without_results_have_a_loss_and_no_step_accuracy(model, tokenizer):
    values = metrics(count_chain_of_thought(model, tokenizer, PROBLEMS[3:4]))
    assert "step_accuracy" not in values
    assert values["cot_loss"] > 0


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_can_be_trained_on(model, tokenizer, training):
    model.train(training)
    count_chain_of_thought(model, tokenizer, PROBLEMS[:2])
    assert model.training is training
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    model.zero_grad()


def test_a_slow_tokenizer_is_refused(model):
    class Slow:
        is_fast = False

    with pytest.raises(PTLError, match="fast tokenizer"):
        count_chain_of_thought(model, Slow(), PROBLEMS)
