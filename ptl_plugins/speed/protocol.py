"""What is measured and how often: PTL's own protocol, and the paper's by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ptl_plugins.errors import PTLError, did_you_mean

MEASURES = ("latency", "natural", "throughput", "prefill", "decode")
PER_PROMPT = ("latency", "natural")
"""Measures that are taken once for every prompt of a repeat; the others once for a repeat."""
PAPER_CAVEAT = (
    "protocol 'paper' lets both models stop by themselves: one that stops earlier looks faster, "
    "however fast its tokens come; the published 2.6x is above what the weights allow at batch 1 "
    "(about 1.6x for 8.0 -> 5.0 B): read it beside the mean tokens and the decode speedup"
)
LOWEST = {
    "warmups": 0, "repeats": 1, "new_tokens": 1, "num_prompts": 1, "prompt_tokens": 1,
    "batch_size": 1, "max_natural_tokens": 1, "seed": 0,
}  # fmt: skip
"""The smallest value of every number of a protocol."""


def _require_measures(measures: tuple[Any, ...]) -> None:
    allowed = f"allowed: {', '.join(MEASURES)}"
    if not measures:
        raise PTLError(f"measures: is empty; {allowed}")
    for measure in measures:
        if measure not in MEASURES:
            hint = did_you_mean(str(measure), MEASURES)
            raise PTLError(f"measures: {measure!r} is unknown{hint}; {allowed}")
    if len(set(measures)) < len(measures):
        raise PTLError(f"measures: {', '.join(measures)} names one twice")


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a speed is measured. Decoding is greedy; warm-ups are never counted.

    Raises:
        PTLError: a value is out of its range, or too few pairs are asked for.
    """

    name: str = "default"
    measures: tuple[str, ...] = MEASURES
    warmups: int = 2
    """Uncounted passes of both models before each measure."""
    repeats: int = 10
    """How often everything is measured; the repeats are what the interval is made of."""
    new_tokens: int = 64
    """Tokens that latency, throughput and decode generate, neither more nor fewer."""
    num_prompts: int = 4
    """Prompts per repeat of the measures that take one prompt at a time."""
    prompt_tokens: int = 256
    """Tokens of each prompt of prefill, decode and throughput."""
    batch_size: int = 8
    """Sequences at a time in throughput; all other measures take one."""
    max_natural_tokens: int = 256
    """Where a generation ends that is free to stop by itself."""
    seed: int = 0
    """Of the bootstrap."""
    caveat: str = field(default="", repr=False)
    """What has to be read beside the numbers; empty where there is nothing to say."""

    def __post_init__(self) -> None:
        for key, lowest in LOWEST.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise PTLError(f"{key}: {value!r} is not a whole number of at least {lowest}")
        _require_measures(self.measures)
        for measure in self.measures:
            if self.num_pairs(measure) < 2:
                raise PTLError(
                    f"repeats: {self.repeats} gives one pair of '{measure}', and an interval "
                    "needs two; give repeats of at least 2"
                )

    def num_pairs(self, measure: str) -> int:
        """Return how many pairs the interval of `measure` is made of.

        The repeats; where there is a single one, its prompts.
        """
        return self.num_prompts if self.repeats == 1 and measure in PER_PROMPT else self.repeats

    @property
    def longest(self) -> Mapping[str, int]:
        """Tokens beside the prompt's own that each measure needs in the context."""
        block = self.prompt_tokens + self.new_tokens
        needs = {
            "latency": self.new_tokens,
            "natural": self.max_natural_tokens,
            "throughput": block,
            "prefill": self.prompt_tokens,
            "decode": block,
        }
        return {measure: needs[measure] for measure in self.measures}


DEFAULT = Protocol()
PAPER = Protocol(
    name="paper",
    measures=("natural",),
    warmups=5,
    repeats=1,
    num_prompts=10,
    max_natural_tokens=64,
    caveat=PAPER_CAVEAT,
)
"""That of the released scripts: generate, batch 1, 10 problems, at most 64 new tokens."""
PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT, PAPER)}
KEYS = tuple(one.name for one in fields(Protocol) if one.name not in ("name", "caveat"))
"""What a recipe may set of a protocol."""


def named(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        PTLError: there is none.
    """
    if not isinstance(name, str) or name not in PROTOCOLS:
        hint = did_you_mean(str(name), PROTOCOLS)
        raise PTLError(f"protocol: {name!r} is unknown{hint}; allowed: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def from_settings(settings: Mapping[str, Any]) -> Protocol:
    """Return the protocol under the key `protocol` with the other `KEYS` of `settings` put in.

    Raises:
        PTLError: an unknown protocol or measure, or a value out of its range.
    """
    chosen = {key: settings[key] for key in KEYS if key in settings}
    if "measures" in chosen:
        measures = chosen["measures"]
        if not isinstance(measures, list | tuple):
            raise PTLError(f"measures: {measures!r} is not a list; allowed: {', '.join(MEASURES)}")
        chosen["measures"] = tuple(measures)
    return replace(named(settings.get("protocol", DEFAULT.name)), **chosen)
