"""Tiny random models, a tokenizer and a corpus for tests, PTL's own and plugin authors'."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
GEMMA = {"sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8}
TINY: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8, "head_dim": 16},
    "qwen2": QWEN_WINDOW,
    "qwen3": {**QWEN_WINDOW, "head_dim": 16},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "sliding_window_pattern": 4},
    "phi3": {
        "sliding_window": 8,
        "original_max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.5],
            "long_factor": [2.0, 4.0],
        },
    },
}
"""Config keys of tiny models by model type, beside the common ones."""

COMMON = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def tiny_model(
    model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **keys: Any
) -> PreTrainedModel:
    """Return a random model of five layers; `keys` override its config."""
    config = AutoConfig.for_model(model_type, **{**COMMON, **TINY.get(model_type, {}), **keys})
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # ones and zeros would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    return model


def tiny_texts(number: int, *, seed: int = 0) -> list[str]:
    """Return short sums with their steps, a corpus that a tiny model learns from."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        a, b, c = (rng.randint(1, 50) for _ in range(3))
        steps = f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}."
        texts.append(f"Question: What is {a} + {b} + {c}?\nAnswer: {steps}\n#### {a + b + c}")
    return texts


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 256 entries, trained on `tiny_texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=256, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(tiny_texts(200), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def write_tiny_checkpoint(folder: Path, model_type: str = "llama", **keys: Any) -> Path:
    """Write a tiny bf16 model with tokenizer, generation config and licence to `folder`."""
    model = tiny_model(model_type, dtype=torch.bfloat16, **keys)
    model.generation_config.max_length = 99
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("a licence\n", encoding="utf-8")
    return folder


def write_tiny_corpus(folder: Path, *, num_documents: int = 240) -> Path:
    """Write `tiny.jsonl`, held-out problems and LLaMA-Factory's `dataset_info.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": text}) for text in tiny_texts(num_documents)]
    (folder / "tiny.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    info = {"tiny": {"file_name": "tiny.jsonl", "columns": {"prompt": "text"}}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    held_out = []
    for text in tiny_texts(20, seed=1):
        question, answer = text.removeprefix("Question: ").split("\nAnswer: ")
        held_out.append(json.dumps({"question": question, "answer": answer}))
    (folder / "held_out.jsonl").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    return folder
