"""Measures one model against another: two checkpoints, or a live model and a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.model_config import model_folder
from ptl_plugins.speed.bootstrap import require_scipy
from ptl_plugins.speed.engine import Engine
from ptl_plugins.speed.machine import machine, snapshot
from ptl_plugins.speed.measures import measure
from ptl_plugins.speed.prompts import choose
from ptl_plugins.speed.protocol import DEFAULT, Protocol
from ptl_plugins.speed.report import SpeedReport, compare
from ptl_plugins.speed.weights import WeightsBound

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BACKENDS = ("hf", "vllm")
BUSY = 0.5
"""Load average before the start above which a report says that the machine was not idle."""
SPECIAL_TOKENS = 8
"""More than any tokenizer puts around a prompt."""


def measure_speed(
    model: Path,
    baseline: Path,
    protocol: Protocol = DEFAULT,
    prompts: Sequence[str] | None = None,
    backend: str = "hf",
    *,
    dtype: str | None = None,
    device: str | None = None,
    gpu_memory: float = 0.9,
) -> SpeedReport:
    """Measure two checkpoints in turn, in this process.

    Args:
        model: a checkpoint folder, or the name of a hub model.
        baseline: what it is compared with; the model itself is allowed, and gives about 1.
        protocol: what is measured and how often.
        prompts: at least `protocol.num_prompts` texts; None: PTL's own.
        backend: `hf` or `vllm`.
        dtype: float32, bfloat16 or float16, for both; None: the one the model is stored in.
        device: as torch spells it (`hf` only); None: the accelerator, or the CPU.
        gpu_memory: share of the GPU's memory that both take together (`vllm` only).

    Raises:
        PTLError: a model is missing or cannot be loaded, a length exceeds a context, there is no
            room, or a package is not installed.
    """
    if backend not in BACKENDS:
        hint = did_you_mean(backend, BACKENDS)
        raise PTLError(f"backend: {backend!r} is unknown{hint}; allowed: {', '.join(BACKENDS)}")
    if not 0 < gpu_memory <= 1:
        raise PTLError(f"gpu_memory: {gpu_memory!r} is no share above 0 and up to 1")
    require_scipy()
    texts = choose(prompts, protocol.num_prompts)
    folders = (model_folder(str(model)), model_folder(str(baseline)))
    if backend == "vllm":
        from ptl_plugins.speed import vllm_engine

        longest = max(protocol.longest.values()) + most_tokens(texts)
        both = vllm_engine.opened(folders, dtype=dtype, memory=gpu_memory, max_tokens=longest)
    else:
        both = _transformers_engines(folders, dtype, device)
    with no_room_told(), both as (ours, theirs):
        return report_of(ours, theirs, protocol, texts, backend)


def measure_live(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    baseline: Path,
    protocol: Protocol = DEFAULT,
    prompts: Sequence[str] | None = None,
) -> SpeedReport:
    """Measure a live model, which stays as it is, against a checkpoint.

    The checkpoint is loaded in the model's dtype, on its device, with its attention.

    Raises:
        PTLError: as `measure_speed` does.
    """
    from ptl_plugins.speed.transformers_engine import TransformersEngine, opened

    require_scipy()
    texts = choose(prompts, protocol.num_prompts)
    ours = TransformersEngine(model, tokenizer, name="live model")
    attention = None if ours.facts.attention in ("unknown", "None") else ours.facts.attention
    loaded = opened(
        model_folder(str(baseline)),
        dtype=ours.facts.dtype,
        device=model.device,
        attention=attention,
    )
    with no_room_told(), loaded as theirs:
        return report_of(ours, theirs, protocol, texts, "hf")


def report_of(
    model: Engine, baseline: Engine, protocol: Protocol, texts: Sequence[str], backend: str
) -> SpeedReport:
    """Measure two engines and return what was found."""
    device = model.facts.device
    start = snapshot(device)
    timings = measure(model, baseline, texts, protocol)
    return SpeedReport(
        protocol=protocol,
        backend=backend,
        model=model.facts,
        baseline=baseline.facts,
        machine=machine(device, start),
        comparisons=compare(timings, seed=protocol.seed),
        weights=WeightsBound(
            model_bytes=model.facts.bytes_per_token, baseline_bytes=baseline.facts.bytes_per_token
        ),
        notes=tuple(_notes(model, baseline, texts, start.load_average)),
        timings=timings,
    )


def most_tokens(texts: Sequence[str]) -> int:
    """Return a bound on the tokens of the longest text, whatever the tokenizer: its bytes."""
    return max(len(text.encode()) for text in texts) + SPECIAL_TOKENS


@contextlib.contextmanager
def no_room_told() -> Iterator[None]:
    """Turn a device that is out of memory into an error of the user.

    Raises:
        PTLError: it was.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PTLError(
            "the device has no room for both models: give a smaller batch_size, prompt_tokens or "
            f"new_tokens, or end other work there ({str(error).splitlines()[0][:120]})"
        ) from error


@contextlib.contextmanager
def _transformers_engines(
    folders: tuple[Path, Path], dtype: str | None, device: str | None
) -> Iterator[tuple[Any, Any]]:
    from ptl_plugins.live import accelerator
    from ptl_plugins.speed.transformers_engine import opened

    place = _named_device(device) if device else accelerator()
    with opened(folders[0], dtype=dtype, device=place, attention=None) as ours:
        same = ours.facts.dtype
        with opened(folders[1], dtype=same, device=place, attention=ours.facts.attention) as theirs:
            yield ours, theirs


def _named_device(name: str) -> torch.device:
    """Return a device that is there; an index counts from 0."""
    import torch

    try:
        place = torch.device(name)
    except RuntimeError:
        raise PTLError(f"device: {name!r} is none; give cpu, cuda or cuda:0") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise PTLError(f"device: {name!r}: torch sees {torch.cuda.device_count()} CUDA devices")
    return place


def _notes(
    model: Engine, baseline: Engine, texts: Sequence[str], load: float | None
) -> Iterator[str]:
    if model.facts.vocabulary != baseline.facts.vocabulary:
        yield (
            f"the vocabularies differ ({model.facts.vocabulary} and {baseline.facts.vocabulary} "
            "tokens), and so does the work of the lm_head"
        )
    if any(model.encode(text) != baseline.encode(text) for text in texts):
        ours, theirs = (sum(len(one.encode(text)) for text in texts) for one in (model, baseline))
        yield (
            f"the tokenizers differ: the prompts are {ours} tokens for the model and {theirs} for "
            "the baseline, and a token is not the same amount of text"
        )
    if model.facts.attention != baseline.facts.attention:
        yield f"the attention differs: {model.facts.attention} and {baseline.facts.attention}"
    if load is not None and load > BUSY:
        yield f"the machine was not idle: load average {load:g} before the start"
