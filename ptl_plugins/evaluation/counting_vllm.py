"""lm-eval's vLLM model, which also tells how many tokens each answer took.

Written against lm-eval 0.4.13, and not run on a GPU yet. vLLM batches by itself.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.vllm_causallms import VLLM

from ptl_plugins.evaluation.values import Usage


class CountingVLLM(VLLM):  # type: ignore[misc]
    """A checkpoint served by vLLM for lm-eval; `usage` grows by every answer."""

    def __init__(self, model: str, *, needs_bos: bool) -> None:
        super().__init__(
            pretrained=model,
            dtype="auto",
            trust_remote_code=False,
            batch_size="auto",
            add_bos_token=True if needs_bos else None,
        )
        self.usage: dict[str, list[Usage]] = {}
        """By prompt, in the order of the requests."""
        self._prompts: dict[tuple[int, ...], str] = {}

    def prompt_length(self, prompt: str) -> int:
        """Return the tokens of a prompt, as they are fed to the model."""
        return len(self.tok_encode([prompt])[0])

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answer requests, without upstream's progress bar."""
        prompts = [request.args[0] for request in requests]
        encoded = self.tok_encode(prompts)
        self._prompts = dict(zip(map(tuple, encoded), prompts, strict=True))
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def _model_generate(self, requests: Any, **arguments: Any) -> Any:
        outputs = super()._model_generate(requests=requests, **arguments)
        for ids, output in zip(requests, outputs, strict=True):
            answer = output.outputs[0]
            usage = Usage(
                prompt_tokens=len(ids),
                generated_tokens=len(answer.token_ids),
                finish="length" if answer.finish_reason == "length" else "stop",
            )
            self.usage.setdefault(self._prompts[tuple(ids)], []).append(usage)
        return outputs
