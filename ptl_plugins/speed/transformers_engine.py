"""Backend `hf`: transformers' `generate`, and its forward pass for prefill and decode apart."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ptl_plugins.errors import PTLError
from ptl_plugins.live import evaluating
from ptl_plugins.speed.engine import Clock, EngineFacts, Sample
from ptl_plugins.speed.weights import bytes_per_token, num_parameters, one_line, without_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""By the names a user may give."""


class TransformersEngine:
    """A live model; it is left as it was: mode, weights, generation config."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self._clock = clock
        self._stop_tokens = stop_tokens(model, tokenizer)
        self.facts = facts(model, name)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt."""
        return list(self._tokenizer(text)["input_ids"])

    def generate(self, prompts: Sequence[Sequence[int]], *, new_tokens: int, stop: bool) -> Sample:
        """Generate greedily for all prompts at once.

        With `stop` false there is no end-of-text token: every sequence gets all its tokens.
        """
        stops = self._stop_tokens if stop else None
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=None if stop else new_tokens,
            eos_token_id=stops,
            pad_token_id=stops[0] if stops else 0,
            use_cache=True,
        )
        ids = torch.tensor(prompts, device=self._model.device)
        with evaluating(self._model), _without_own_settings(self._model):
            start = self._now()
            output = self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
            seconds = self._now() - start
        length = output.shape[1] - ids.shape[1]
        assert stop or length == new_tokens, f"{length} of {new_tokens} tokens were generated"
        return Sample(seconds=seconds, num_tokens=length * len(prompts))

    def prefill_decode(self, prompt: Sequence[int], *, new_tokens: int) -> tuple[Sample, Sample]:
        """Time one forward pass over the prompt, then `new_tokens` of one token each."""
        ids = torch.tensor([prompt], device=self._model.device)
        with evaluating(self._model):
            start = self._now()
            output = self._model(input_ids=ids, use_cache=True, **self._last_logits())
            token = output.logits[:, -1:].argmax(-1)
            between = self._now()
            for _ in range(new_tokens):
                cache = output.past_key_values
                output = self._model(input_ids=token, past_key_values=cache, use_cache=True)
                token = output.logits[:, -1:].argmax(-1)
            end = self._now()
        return (
            Sample(seconds=between - start, num_tokens=len(prompt)),
            Sample(seconds=end - between, num_tokens=new_tokens),
        )

    def _last_logits(self) -> dict[str, int]:
        """Return what keeps the lm_head to the last token, as `generate` does it."""
        # of the class: a trainer may have wrapped the instance's
        known = inspect.signature(type(self._model).forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def _now(self) -> float:
        """Return the time at which all work that was given to the device is done."""
        if self._model.device.type != "cpu":
            torch.accelerator.synchronize(self._model.device)
        return self._clock()


def facts(model: PreTrainedModel, name: str) -> EngineFacts:
    """Return what a live model is."""
    config: Any = model.config
    context = getattr(config, "max_position_embeddings", None)
    return EngineFacts(
        name=name,
        dtype=str(model.get_output_embeddings().weight.dtype).removeprefix("torch."),
        device=str(model.device),
        attention=str(getattr(config, "_attn_implementation", "unknown")),
        num_parameters=num_parameters(model),
        bytes_per_token=bytes_per_token(model),
        vocabulary=int(config.vocab_size),
        context=context if isinstance(context, int) else None,
    )


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Return the tokens that end a text: the generation config's, else the tokenizer's."""
    generation: Any = model.generation_config
    for found in (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id):
        if found is not None:
            return list(found) if isinstance(found, list | tuple) else [int(found)]
    return None


@contextlib.contextmanager
def opened(
    folder: Path, *, dtype: str | None, device: torch.device, attention: str | None
) -> Iterator[TransformersEngine]:
    """Yield a checkpoint as an engine, then let it go.

    Args:
        folder: a checkpoint.
        dtype: a name of `DTYPES`; None: the one it is stored in.
        device: where it computes.
        attention: the implementation; None: transformers' choice.

    Raises:
        PTLError: it cannot be loaded, or there is no room for it.
    """
    shape = without_weights(folder, torch_dtype(dtype))
    _require_room(folder, num_parameters(shape) * shape.dtype.itemsize, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=shape.dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise PTLError(f"{folder}: cannot be loaded ({one_line(error)})") from error
    yield TransformersEngine(model.to(device).eval(), tokenizer, name=str(folder))
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def torch_dtype(name: str | None) -> torch.dtype | None:
    """Return the dtype called `name`, or None.

    Raises:
        PTLError: it is none of `DTYPES`.
    """
    if name is not None and name not in DTYPES:
        raise PTLError(f"dtype: {name!r} is unknown; allowed: {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


@contextlib.contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """Take the model's generation config away: penalties or a maximum in it would apply too."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _require_room(folder: Path, needed: int, device: torch.device) -> None:
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else psutil.virtual_memory().available
    if needed > free:
        raise PTLError(
            f"{folder}: its weights take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free "
            f"on {device}; end other work there, or measure a smaller baseline"
        )
