"""A stand-in for vLLM: transformers answers on the CPU, under the names that EasyR1 uses.

As in vLLM, the weights are dummies until EasyR1 loads those of the actor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass
class SamplingParams:
    """Those of vLLM that EasyR1 sets."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    max_tokens: int = 16
    detokenize: bool = True
    logit_bias: dict | None = None
    ignore_eos: bool = False


@dataclass
class CompletionOutput:
    """One answer."""

    token_ids: list


@dataclass
class RequestOutput:
    """The answers of one prompt."""

    outputs: list = field(default_factory=list)


class LoadedModel:
    """What EasyR1 gives the actor's weights to."""

    def __init__(self, model):
        self._state = model.state_dict()

    @torch.no_grad()
    def load_weights(self, weights):
        """Copy every tensor; refuse another shape, and a part of the model alone."""
        names = set()
        for name, tensor in weights:
            if self._state[name].shape != tensor.shape:
                raise ValueError(f"{name}: {tensor.shape} is not {self._state[name].shape}")
            self._state[name].copy_(tensor)
            names.add(name)
        missing = self._state.keys() - names - {"lm_head.weight"}
        if missing:
            raise ValueError(f"not loaded: {missing}")
        print(f"stand-in vllm: {len(names)} tensors loaded", flush=True)


class LLM:
    """The engine, in the process of its rank."""

    def __init__(self, model, **_keys):
        self._model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).eval()
        runner = SimpleNamespace(model=LoadedModel(self._model))
        worker = SimpleNamespace(worker=SimpleNamespace(model_runner=runner))
        executor = SimpleNamespace(driver_worker=worker)
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def sleep(self, level=1):
        """Nothing is on a GPU."""

    def wake_up(self, tags=None):
        """Nothing is on a GPU."""

    @torch.no_grad()
    def generate(self, prompts, sampling_params, **_keys):
        """Answer each prompt `n` times."""
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, prompt, sampling):
        ids = torch.tensor([list(prompt)])
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        answers = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_tokens,
            num_return_sequences=sampling.n,
            do_sample=sampling.temperature > 0,
            **(drawn if sampling.temperature > 0 else {}),
        )
        return RequestOutput([CompletionOutput(row[ids.size(1) :].tolist()) for row in answers])
