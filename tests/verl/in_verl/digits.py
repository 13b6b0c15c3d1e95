"""A task that a tiny model can learn by reward alone: answer with the digit that is named.

The model is first taught the task, and then to answer any digit in the right form: it is right
once in ten, and nothing but the reward tells it that the prompt decides.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

QUESTION = "Say {digit}"
ANSWER = "<think>so</think> \\boxed{{{digit}}}"
TAUGHT, CONFUSED = 150, 8
"""Batches in which the answers are right, and then random."""


def write_model(folder: Path) -> None:
    """Write a model that knows the form, and hardly more."""
    from verl_ext.grpo_settings import template_path

    tokenizer = _tokenizer()
    tokenizer.chat_template = template_path("plain_chat").read_text(encoding="utf-8")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    _teach(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


def write_problems(path: Path, *, right: bool, number: int = 200) -> None:
    """Write problems whose answer is the digit, or any digit whatever was asked."""
    rng = random.Random(3)
    rows = []
    for index in range(number):
        digit = index % 10
        answer = digit if right else rng.randrange(10)
        rows.append({"problem": QUESTION.format(digit=digit), "answer": str(answer)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _teach(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(TAUGHT + CONFUSED):
        ids, labels = _batch(tokenizer, rng, right=step < TAUGHT)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _batch(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, right: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [64, tokens] of prompts and answers, and labels of the answers alone."""
    texts = []
    for _ in range(64):
        digit = rng.randrange(10)
        chat = [{"role": "user", "content": QUESTION.format(digit=digit)}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        said = digit if right else rng.randrange(10)
        texts.append(prompt + ANSWER.format(digit=said) + tokenizer.eos_token)
    ids = torch.tensor(tokenizer(texts)["input_ids"])  # of one length: a digit is one token
    labels = ids.clone()
    labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
    return ids, labels


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that never joins a digit to anything."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [QUESTION.format(digit=d) + "\n" + ANSWER.format(digit=d) for d in range(10)]
    tokenizer.train_from_iterator(texts * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
