"""An engine that computes nothing and takes the seconds it is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from ptl_plugins.speed.engine import EngineFacts, Sample

FACTS = EngineFacts(
    name="m",
    dtype="float32",
    device="cpu",
    attention="sdpa",
    num_parameters=100,
    bytes_per_token=400,
    vocabulary=256,
    context=64,
)


@dataclass(kw_only=True, eq=False)
class FakeEngine:
    """Notes every pass in a log that engines share; a token is a character."""

    name: str
    log: list = field(default_factory=list)
    seconds: float = 1.0
    natural_tokens: int = 5
    facts: EngineFacts = FACTS

    def __post_init__(self):
        self.facts = replace(self.facts, name=self.name)

    def encode(self, text):
        return [ord(letter) for letter in text]

    def generate(self, prompts, *, new_tokens, stop):
        self.log.append((self.name, [tuple(prompt) for prompt in prompts], new_tokens, stop))
        length = min(self.natural_tokens, new_tokens) if stop else new_tokens
        return Sample(seconds=self.seconds * length, num_tokens=length * len(prompts))

    def prefill_decode(self, prompt, *, new_tokens):
        self.log.append((self.name, tuple(prompt), new_tokens))
        return (
            Sample(seconds=self.seconds / 10, num_tokens=len(prompt)),
            Sample(seconds=self.seconds * new_tokens, num_tokens=new_tokens),
        )


@pytest.fixture
def make_engine():
    return FakeEngine
