"""What each measure runs: prompts as tokens of each engine, and the passes that are timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.engine import Engine, Sample
from ptl_plugins.speed.interleave import Timing, take_turns
from ptl_plugins.speed.protocol import Protocol


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """The prompts as tokens of one engine."""

    texts: tuple[tuple[int, ...], ...]
    stream: tuple[int, ...] = field(repr=False)
    """All of them one after the other, over and over: what blocks are cut from."""

    def block(self, length: int, index: int) -> tuple[int, ...]:
        """Return exactly `length` tokens; those of another `index` begin at another token."""
        start = index % len(self.stream)
        copies = -(-(start + length) // len(self.stream))
        return (self.stream * copies)[start : start + length]


@dataclass(frozen=True, kw_only=True, eq=False)
class Passes:
    """The passes of a protocol over both engines' prompts."""

    protocol: Protocol
    prompts: Mapping[int, Prompts]
    """By the `id` of the engine: each reads its own tokens."""

    def latency(self, engine: Engine, index: int) -> dict[str, Sample]:
        """Generate a fixed number of tokens for one prompt."""
        prompt = self.prompts[id(engine)].texts[index]
        new = self.protocol.new_tokens
        return {"latency": engine.generate([prompt], new_tokens=new, stop=False)}

    def natural(self, engine: Engine, index: int) -> dict[str, Sample]:
        """Generate for one prompt until the model stops by itself."""
        prompt = self.prompts[id(engine)].texts[index]
        most = self.protocol.max_natural_tokens
        return {"natural": engine.generate([prompt], new_tokens=most, stop=True)}

    def throughput(self, engine: Engine, index: int) -> dict[str, Sample]:
        """Generate a fixed number of tokens for a batch of equally long prompts."""
        length = self.protocol.prompt_tokens
        own = self.prompts[id(engine)]
        batch = [own.block(length, index + row) for row in range(self.protocol.batch_size)]
        new = self.protocol.new_tokens
        return {"throughput": engine.generate(batch, new_tokens=new, stop=False)}

    def prefill_decode(self, engine: Engine, index: int) -> dict[str, Sample]:
        """Read one prompt of a stated length, and decode after it."""
        prompt = self.prompts[id(engine)].block(self.protocol.prompt_tokens, index)
        # without decode its steps are not asked for, and there may be no room for them
        new_tokens = self.protocol.new_tokens if "decode" in self.protocol.measures else 1
        both = engine.prefill_decode(prompt, new_tokens=new_tokens)
        return dict(zip(("prefill", "decode"), both, strict=True))


def tokenize(engine: Engine, texts: Sequence[str], protocol: Protocol) -> Prompts:
    """Return the prompts as tokens of `engine`.

    Raises:
        PTLError: a prompt has no token, or prompt and new tokens exceed the model's context.
    """
    rows = tuple(tuple(engine.encode(text)) for text in texts)
    if not all(rows):
        empty = texts[[len(row) for row in rows].index(0)]
        raise PTLError(f"{engine.facts.name}: prompt {empty!r} has no token; give another one")
    _require_context(engine, max(len(row) for row in rows), protocol)
    return Prompts(texts=rows, stream=tuple(token for row in rows for token in row))


def measure(
    model: Engine, baseline: Engine, texts: Sequence[str], protocol: Protocol
) -> tuple[Timing, ...]:
    """Take all measures of the protocol, in its order.

    Raises:
        PTLError: what `tokenize` raises.
    """
    prompts = {id(one): tokenize(one, texts, protocol) for one in (model, baseline)}
    passes = Passes(protocol=protocol, prompts=prompts)
    taken = {timing.measure: timing for timing in _timings(model, baseline, passes)}
    return tuple(taken[measure] for measure in protocol.measures)


def _timings(model: Engine, baseline: Engine, passes: Passes) -> Iterator[Timing]:
    protocol, wanted = passes.protocol, passes.protocol.measures
    for run, names, prompts in (
        (passes.latency, {"latency"}, protocol.num_prompts),
        (passes.natural, {"natural"}, protocol.num_prompts),
        (passes.throughput, {"throughput"}, 1),
        (passes.prefill_decode, {"prefill", "decode"}, 1),
    ):
        if names.intersection(wanted):
            yield from take_turns(
                model,
                baseline,
                run,
                warmups=protocol.warmups,
                repeats=protocol.repeats,
                num_prompts=prompts,
            )


def _require_context(engine: Engine, longest_prompt: int, protocol: Protocol) -> None:
    context = engine.facts.context
    for name, more in protocol.longest.items():
        own = longest_prompt if name in ("latency", "natural") else 0
        if context is not None and own + more > context:
            raise PTLError(
                f"{engine.facts.name}: '{name}' needs {own + more} tokens and "
                f"max_position_embeddings is {context}; give fewer new_tokens, prompt_tokens or "
                "max_natural_tokens"
            )
