"""Backend `vllm`: both models as engines of vLLM in this process, each with half of the memory."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.engine import Clock, EngineFacts, Sample

DEVICE = "cuda:0"
"""vLLM takes the first device that is visible."""


class VllmEngine:
    """A model in vLLM; `vllm` is the module, given so that nothing here imports it."""

    def __init__(
        self, llm: Any, facts: EngineFacts, *, vllm: Any, clock: Clock = time.perf_counter
    ) -> None:
        self._llm = llm
        self._vllm = vllm
        self._clock = clock
        self.facts = facts

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt."""
        return list(self._llm.get_tokenizer().encode(text))

    def generate(self, prompts: Sequence[Sequence[int]], *, new_tokens: int, stop: bool) -> Sample:
        """Generate greedily for all prompts at once; `LLM.generate` returns when all is done."""
        sampling = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=not stop, detokenize=False
        )
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        start = self._clock()
        outputs = self._llm.generate(inputs, sampling, use_tqdm=False)
        seconds = self._clock() - start
        lengths = [len(output.outputs[0].token_ids) for output in outputs]
        assert stop or set(lengths) == {new_tokens}, f"{lengths} of {new_tokens} tokens each"
        return Sample(seconds=seconds, num_tokens=sum(lengths))

    def prefill_decode(self, prompt: Sequence[int], *, new_tokens: int) -> tuple[Sample, Sample]:
        """Generate one token, then `new_tokens` more: the difference is the decoding."""
        first = self.generate([prompt], new_tokens=1, stop=False)
        whole = self.generate([prompt], new_tokens=1 + new_tokens, stop=False)
        return (
            Sample(seconds=first.seconds, num_tokens=len(prompt)),
            Sample(seconds=whole.seconds - first.seconds, num_tokens=new_tokens),
        )


@contextlib.contextmanager
def opened(
    folders: tuple[Path, Path], *, dtype: str | None, memory: float, max_tokens: int
) -> Iterator[tuple[VllmEngine, VllmEngine]]:
    """Yield both checkpoints as engines, then shut them down.

    Args:
        folders: the model and its baseline.
        dtype: of both; None: the one that the model is stored in.
        memory: share of the GPU's memory that both take together.
        max_tokens: a bound on the longest sequence, in tokens; the context is another.

    Raises:
        PTLError: vllm is not installed, or an engine does not start.
    """
    vllm = _vllm()
    facts = [_facts(folder, dtype) for folder in folders]
    llms: list[Any] = []
    try:
        for folder, own in zip(folders, facts, strict=True):
            length = min(max_tokens, own.context or max_tokens)
            llms.append(_start(vllm, folder, facts[0].dtype, memory / 2, length))
        ours, theirs = (
            VllmEngine(llm, own, vllm=vllm) for llm, own in zip(llms, facts, strict=True)
        )
        yield ours, theirs
    finally:
        llms.clear()  # an engine ends with its last reference


def _start(vllm: Any, folder: Path, dtype: str, share: float, max_tokens: int) -> Any:
    try:
        return vllm.LLM(
            model=str(folder),
            dtype=dtype,
            gpu_memory_utilization=share,
            max_model_len=max_tokens,
            # the same prompts come again and again: with it no prefill but the first is real
            enable_prefix_caching=False,
        )
    except (RuntimeError, ValueError) as error:
        from ptl_plugins.speed.weights import one_line

        raise PTLError(
            f"{folder}: vLLM does not start it with {share:.0%} of the GPU's memory "
            f"({one_line(error)}); end other work there, or use backend 'hf'"
        ) from error


def _facts(folder: Path, dtype: str | None) -> EngineFacts:
    from dataclasses import replace

    from ptl_plugins.speed import transformers_engine, weights

    shape = weights.without_weights(folder, transformers_engine.torch_dtype(dtype))
    found = transformers_engine.facts(shape, str(folder))
    return replace(found, device=DEVICE, attention="vLLM's own")


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise PTLError(
            "backend 'vllm' needs vLLM, which is not installed: pip install vllm, or backend 'hf'"
        ) from None
