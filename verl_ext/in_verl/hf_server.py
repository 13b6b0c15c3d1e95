"""The server of the rollout `hf_cpu`: answers prompts with plain transformers, in batches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from verl.utils import normalize_token_ids
from verl.workers.rollout.replica import TokenOutput

from verl_ext.in_verl.hf_generation import Answer, Sampling, generate

GATHER_SECONDS = 0.05
"""How long the first prompt of a batch waits for others."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """A prompt that waits for its answer."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    answer: asyncio.Future[Answer]


class HfServer:
    """Holds one model; its methods are those that verl calls of a rollout's server."""

    def __init__(self, *, path: str, config: Any, replica_rank: int) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.config = config
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        ).eval()
        own = self.model.generation_config
        # a checkpoint's own sampling (top_k, penalties) would bend what the recipe asks for
        self.model.generation_config = GenerationConfig()
        self.eos = _end_tokens(own.eos_token_id, self.model.config.eos_token_id)
        self.global_steps: int | None = None
        self._waiting: list[Request] = []
        self._busy = asyncio.Lock()
        torch.manual_seed(config.seed + replica_rank)

    async def ready(self) -> str:
        """Return an address, which nobody connects to."""
        return f"hf_cpu-{os.getpid()}:0"

    async def update_weights(
        self, named: Sequence[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> None:
        """Take all weights of the trained model; answers after it are that model's."""
        async with self._busy:
            load_weights(self.model, dict(named))
            self.global_steps = global_steps

    async def set_global_steps(self, global_steps: int) -> None:
        """Note the step of the weights, which answers carry."""
        self.global_steps = global_steps

    async def generate(
        self,
        prompt_ids: Any,
        sampling_params: Mapping[str, Any],
        request_id: str,
        **more: Any,
    ) -> TokenOutput:
        """Return the answer to one prompt; prompts that come together are answered together.

        Raises:
            ValueError: the prompt leaves no room in the model's context.
        """
        prompt = list(normalize_token_ids(prompt_ids))
        request = Request(
            prompt=prompt,
            sampling=_sampling(sampling_params, self.eos),
            max_tokens=self._budget(len(prompt), sampling_params),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(request)
        await asyncio.sleep(GATHER_SECONDS)
        async with self._busy:
            if not request.answer.done():
                await self._answer_like(request)
        answer = await request.answer
        return TokenOutput(
            token_ids=answer.tokens,
            log_probs=answer.log_probs,
            stop_reason="completed",
            num_preempted=0,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _answer_like(self, request: Request) -> None:
        """Answer the request, and those that wait and are sampled alike."""
        alike = [each for each in self._waiting if each.sampling == request.sampling]
        # the request itself is among the first, whatever came before it
        batch = [request, *(each for each in alike if each is not request)]
        batch = batch[: self.config.max_num_seqs]
        self._waiting = [each for each in self._waiting if each not in batch]
        limits = [each.max_tokens for each in batch]
        prompts = [each.prompt for each in batch]
        try:
            answers = await asyncio.to_thread(
                generate, self.model, prompts, limits, request.sampling
            )
        except Exception as error:
            for each in batch:
                each.answer.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            each.answer.set_result(answer)

    def _budget(self, prompt_length: int, sampling_params: Mapping[str, Any]) -> int:
        context = int(self.config.max_model_len or self.model.config.max_position_embeddings)
        room = context - prompt_length
        if room < 1:
            raise ValueError(
                f"a prompt of {prompt_length} tokens leaves no room in a context of {context}"
            )
        wanted = sampling_params.get("max_tokens") or sampling_params.get("max_new_tokens")
        return max(1, min(int(wanted or self.config.response_length), room))

    async def _nothing(self, *args: object, **keys: object) -> None:
        """Do what has no meaning here: no memory is given back, no cache outlives a batch."""

    sleep = wake_up = clear_kv_cache = release_kv_cache = resume_kv_cache = _nothing
    resume_generation = start_profile = stop_profile = _nothing

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:
        """Abort nothing: the synchronous trainer waits for every answer."""
        return {"aborted_count": 0, "request_ids": []}


def load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a model.

    Raises:
        ValueError: a name is unknown, has another shape, or is missing.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in weights.items():
        if name not in parameters:
            raise ValueError(f"weight '{name}' is none of the rollout's model")
        if parameters[name].shape != tensor.shape:
            raise ValueError(
                f"weight '{name}' has shape {list(tensor.shape)}, and the rollout's model "
                f"{list(parameters[name].shape)}"
            )
    given = {id(parameters[name]) for name in weights}  # tied weights come under one name
    for name, parameter in parameters.items():
        if id(parameter) not in given:
            raise ValueError(f"weight '{name}' was not sent to the rollout's model")
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def _end_tokens(*candidates: int | list[int] | None) -> tuple[int, ...]:
    """Return the first that says anything; none: answers end at their limit alone."""
    eos = next((each for each in candidates if each is not None), [])
    return tuple(eos) if isinstance(eos, list) else (eos,)


def _sampling(params: Mapping[str, Any], eos: tuple[int, ...]) -> Sampling:
    return Sampling(
        temperature=params.get("temperature", 1.0),
        top_p=params.get("top_p", 1.0),
        top_k=max(params.get("top_k", -1), 0),
        log_probs=bool(params.get("logprobs", False)),
        eos=() if params.get("ignore_eos") else eos,
    )
