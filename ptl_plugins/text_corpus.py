"""The corpus of `ptl run`: texts cut by document into one part per round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ptl_plugins.errors import PTLError
from ptl_plugins.text_data import beginning
from ptl_plugins.types import CalibrationSpec, Recipe, RoundSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class TextCorpus:
    """Texts by round, and the tokenizer that makes sequences of them."""

    parts: tuple[tuple[str, ...], ...]
    tokenizer: PreTrainedTokenizerBase
    spec: CalibrationSpec
    order: tuple[int, ...] = ()
    """Whose part each round has, where rounds are smaller steps of others; empty: its own."""

    def for_rounds(self, rounds: Sequence[RoundSpec]) -> TextCorpus:
        """Return the same corpus for these rounds of its run: a smaller step has its round's."""
        return replace(self, order=tuple(spec.planned for spec in rounds))

    def texts(self, round_index: int) -> Sequence[str]:
        """Return the texts of a round's part; rounds count from 1."""
        planned = self.order[round_index - 1] if self.order else round_index
        return self.parts[planned - 1]

    def calibration(self, round_index: int) -> Sequence[Sequence[int]]:
        """Return the first texts of a round's part as token ids, ended as in pre-training."""
        length = self.spec.max_length or DEFAULT_MAX_LENGTH
        texts = self.texts(round_index)[: self.spec.num_sequences]
        texts = [beginning(text, length) for text in texts]
        tokenizer = self.tokenizer
        first = tokenizer.bos_token if getattr(tokenizer, "add_bos_token", False) else ""
        ended = [f"{first}{text}{tokenizer.eos_token or ''}" for text in texts]
        ids: list[list[int]] = tokenizer(
            ended,
            add_special_tokens=False,
            truncation=True,
            max_length=length,
        )["input_ids"]
        return ids

    def digest(self) -> str:
        """Return a SHA-256 of the parts."""
        return hashlib.sha256(repr(self.parts).encode()).hexdigest()


def read_corpus(recipe: Recipe, model: Path, weights: Sequence[int]) -> TextCorpus:
    """Read the recipe's corpus, shuffle it once by its seed and cut it into parts.

    Args:
        recipe: whose corpus.
        model: the checkpoint whose tokenizer it is.
        weights: of the rounds' parts, from `ptl_plugins.shares`.

    Raises:
        PTLError: it cannot be read, or has too few texts for each round to get one.
    """
    from ptl_plugins.parts import cut_documents
    from ptl_plugins.profile_model import load_tokenizer
    from ptl_plugins.text_data import read_all_texts

    assert recipe.data is not None
    data = recipe.data
    try:
        texts = read_all_texts(
            data.path, column=data.column, template=data.template, split=data.split
        )
    except PTLError as error:  # its text names the data already
        raise PTLError(f"{recipe.source}: {error}") from error
    try:
        documents = cut_documents(len(texts), weights, seed=recipe.seed)
    except PTLError as error:
        raise PTLError(f"{recipe.source}: data '{data.path}': {error}") from error
    parts = tuple(tuple(texts[index] for index in part) for part in documents)
    try:
        tokenizer = load_tokenizer(model)
        corpus = TextCorpus(parts=parts, tokenizer=tokenizer, spec=recipe.calibration)
        _require_tokens(corpus, f"data '{data.path}'", model)
    except PTLError as error:
        raise PTLError(f"{recipe.source}: {error}") from error
    return corpus


def _require_tokens(corpus: TextCorpus, where: str, model: Path) -> None:
    """Refuse texts of whose beginning the tokenizer makes nothing, or nothing that it knows."""
    from ptl_plugins.model_config import read_config
    from ptl_plugins.profile_model import require_known_tokens
    from ptl_plugins.text_data import encode_texts

    first = corpus.parts[0][: corpus.spec.num_sequences]
    length = corpus.spec.max_length or DEFAULT_MAX_LENGTH
    sequences = encode_texts(first, corpus.tokenizer, max_length=length)
    if not any(sequences):
        raise PTLError(f"{where}: the tokenizer makes no token of its texts; give other data")
    vocabulary = read_config(str(model)).get("vocab_size")
    require_known_tokens(where, sequences, corpus.tokenizer, vocabulary)
