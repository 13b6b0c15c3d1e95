"""lm-eval's Hugging Face model, which also tells how many tokens each answer took.

Written against lm-eval 0.4.13. Two things differ from its HFLM: a finished row of a batch stops
by itself (upstream generates on until every row has met the same stop text; the texts are equal,
since both cut them there), and the tokens of each answer are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import StoppingCriteria, StoppingCriteriaList

from ptl_plugins.evaluation.values import Finish, Usage

LOOK_BACK = 8
"""Tokens beyond those of a stop text: another tokenization of it may take more."""


class RowStop(StoppingCriteria):
    """Stops each row of a batch once its answer holds a stop text."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.stops = list(stops)
        self.prompt_length = prompt_length
        longest = max(
            (len(tokenizer.encode(s, add_special_tokens=False)) for s in stops), default=0
        )
        self.window = longest + LOOK_BACK
        self.stopped_at: dict[int, int] = {}
        """Row -> tokens that its answer took, the stop text among them."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return bool [rows] for int64 `input_ids` [rows, prompt and answers so far]."""
        number = input_ids.shape[1] - self.prompt_length
        tail = input_ids[:, self.prompt_length :][:, -self.window :]
        for row, text in enumerate(self.tokenizer.batch_decode(tail)):
            if row not in self.stopped_at and any(stop in text for stop in self.stops):
                self.stopped_at[row] = number
        done = [row in self.stopped_at for row in range(input_ids.shape[0])]
        return torch.tensor(done, device=input_ids.device)


class CountingLM(HFLM):  # type: ignore[misc]
    """A live model for lm-eval; `usage` grows by every answer."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, needs_bos: bool) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            add_bos_token=True if needs_bos else None,
        )
        self.usage: dict[str, list[Usage]] = {}
        """By prompt, in the order of the requests."""
        self._prompts: list[str] = []
        self._bos = _missing_bos(tokenizer) if needs_bos else ""

    def prompt_length(self, prompt: str) -> int:
        """Return the tokens of a prompt, as they are fed to the model."""
        return int(self.tok_batch_encode([prompt])[0].shape[1])

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answer requests, without upstream's progress bar."""
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def tok_batch_encode(self, strings: Any, *args: Any, **kwargs: Any) -> Any:
        """Encode a batch, and remember whose it is."""
        self._prompts = list(strings)
        fed = [s if s.startswith(self._bos) else self._bos + s for s in strings]
        return super().tok_batch_encode(fed, *args, **kwargs)

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **kwargs: Any
    ) -> torch.Tensor:
        for key in ("temperature", "do_sample"):
            kwargs.pop(key, None)
        criterion = RowStop(self.tokenizer, stop, context.shape[1])
        output: torch.Tensor = self.model.generate(
            input_ids=context,
            max_length=max_length,
            stopping_criteria=StoppingCriteriaList([criterion]),
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            do_sample=False,
            **kwargs,
        )
        self._count(kwargs["attention_mask"], output[:, context.shape[1] :], criterion)
        return output

    def _count(self, mask: torch.Tensor, answers: torch.Tensor, criterion: RowStop) -> None:
        ends = self._end_tokens()
        lengths = mask.sum(1).tolist()
        for row, (prompt, ids) in enumerate(zip(self._prompts, answers.tolist(), strict=True)):
            at_end = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
            at_stop = criterion.stopped_at.get(row)
            taken = min(len(ids) if n is None else n for n in (at_end, at_stop))
            finish: Finish = "length" if at_end is None and at_stop is None else "stop"
            usage = Usage(prompt_tokens=int(lengths[row]), generated_tokens=taken, finish=finish)
            self.usage.setdefault(prompt, []).append(usage)

    def _end_tokens(self) -> set[int]:
        found = getattr(self.model.generation_config, "eos_token_id", None)
        return set(found if isinstance(found, list) else () if found is None else (found,))


def _missing_bos(tokenizer: Any) -> str:
    """Return the BOS as text where the tokenizer has one and does not put it in front itself."""
    bos: str | None = tokenizer.bos_token
    starts = tokenizer("a", add_special_tokens=True)["input_ids"][0] == tokenizer.bos_token_id
    return "" if bos is None or starts else bos
