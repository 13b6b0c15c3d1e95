"""What a speed measurement asks of a model, whichever library runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]
"""Returns seconds; only differences count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One timed pass."""

    seconds: float
    num_tokens: int
    """Tokens it generated, over all sequences; of a prefill: tokens it read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What a model is, as far as its speed depends on it."""

    name: str
    """Its folder, or `live model`."""
    dtype: str
    """Of the weights, such as bfloat16."""
    device: str
    attention: str
    """The attention implementation, such as sdpa."""
    num_parameters: int
    """All, tied embeddings once."""
    bytes_per_token: int
    """Bytes of weights that one decoded token at batch 1 reads."""
    vocabulary: int
    context: int | None
    """Tokens the model was made for (`max_position_embeddings`); None: the config says none."""


class Engine(Protocol):
    """A model that generates greedily, and times itself."""

    @property
    def facts(self) -> EngineFacts:
        """What the model is."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, with the tokenizer's own special tokens."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], *, new_tokens: int, stop: bool) -> Sample:
        """Generate for all `prompts` at once, which are equally long.

        Args:
            prompts: token ids.
            new_tokens: how many for each prompt.
            stop: whether a sequence may end earlier, at its end-of-text token.
        """
        ...

    def prefill_decode(self, prompt: Sequence[int], *, new_tokens: int) -> tuple[Sample, Sample]:
        """Time one pass over the prompt, and apart from it `new_tokens` single steps after it."""
        ...
