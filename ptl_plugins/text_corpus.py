"""The corpus of `ptl run`: texts cut by document into one part per round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptl_plugins.errors import PTLError
from ptl_plugins.types import CalibrationSpec, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class TextCorpus:
    """Texts by round, and the tokenizer that makes sequences of them."""

    parts: tuple[tuple[str, ...], ...]
    tokenizer: PreTrainedTokenizerBase
    spec: CalibrationSpec

    def texts(self, round_index: int) -> Sequence[str]:
        """Return the texts of a round's part; rounds count from 1."""
        return self.parts[round_index - 1]

    def calibration(self, round_index: int) -> Sequence[Sequence[int]]:
        """Return the first texts of a round's part as token ids, ended as in pre-training."""
        texts = self.texts(round_index)[: self.spec.num_sequences]
        tokenizer = self.tokenizer
        first = tokenizer.bos_token if getattr(tokenizer, "add_bos_token", False) else ""
        ended = [f"{first}{text}{tokenizer.eos_token or ''}" for text in texts]
        ids: list[list[int]] = tokenizer(
            ended,
            add_special_tokens=False,
            truncation=True,
            max_length=self.spec.max_length or DEFAULT_MAX_LENGTH,
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
    from transformers import AutoTokenizer

    from ptl_plugins.parts import cut_documents
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
    tokenizer = AutoTokenizer.from_pretrained(model)
    return TextCorpus(parts=parts, tokenizer=tokenizer, spec=recipe.calibration)
