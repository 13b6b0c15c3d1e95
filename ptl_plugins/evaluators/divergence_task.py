"""The evaluator `divergence`: loss on any text, and how far a model is from the original."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.given_path import is_there
from ptl_plugins.text_data import SUFFIXES, encode_texts, read_all_texts
from ptl_plugins.types import RoundContext, Subject

if TYPE_CHECKING:
    from ptl_plugins.evaluators.divergence import DivergenceSums

DEFAULTS: dict[str, Any] = {
    "name": None,
    "data": None,
    "column": "text",
    "template": None,
    "split": "train",
    "num_texts": 64,
    "max_length": 512,
    "batch_tokens": 1024,
}
LEAST = {"num_texts": 1, "max_length": 2, "batch_tokens": 1}
"""The first token of a text is predicted by nothing, so a text needs two."""
NAME = re.compile(r"(?!num_)(?!.*_num_)[A-Za-z]\w*", re.ASCII)
"""`num_` tells the report that a metric is a count."""


class Divergence:
    """Metrics `NAME_loss`, `NAME_kl` and `NAME_agreement`, means over all predicted tokens.

    Next-token cross-entropy and KL(original || model) in nats, and the share of tokens whose most
    likely token is the original's; `num_NAME_tokens` tells of how many. The original is the
    recipe's model; it is loaded while this measures and freed after.

    Settings: `name`, `data` with `column` or `template` (and `split` of a hub's data set),
    `num_texts` (the first that are not empty), `max_length`, `batch_tokens`.
    """

    def check(self, settings: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the settings in one line, or None."""
        for key in settings:
            if key not in DEFAULTS:
                hint = did_you_mean(key, DEFAULTS)
                return f"unknown key '{key}'{hint}; allowed: {', '.join(DEFAULTS)}"
        chosen = {**DEFAULTS, **settings}
        for key, least in LEAST.items():
            value = chosen[key]
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                return f"{key}: {value!r} is not a whole number >= {least}"
        return _wrong_name(chosen["name"]) or _wrong_texts(settings) or _unreadable(chosen)

    def evaluate(
        self, ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """Measure the live model against the original, each rank its share of the texts."""
        from ptl_plugins.evaluators.divergence import DivergenceSums
        from ptl_plugins.live import stored_weights

        chosen = {**DEFAULTS, **settings}
        if subject.model is None or subject.tokenizer is None:
            raise PTLError("evaluator 'divergence' needs a live model with its tokenizer")
        texts = _texts(chosen)
        sequences = encode_texts(texts, subject.tokenizer, max_length=chosen["max_length"])
        share = sequences[ctx.ranks.rank :: ctx.ranks.size]
        with stored_weights(subject.model, subject.stored_dtype):
            sums = _compare(ctx.recipe.model, subject, share, chosen["batch_tokens"])
        shares = ctx.ranks.gather(dataclasses.astuple(sums))
        return metrics(chosen["name"], DivergenceSums(*map(sum, zip(*shares, strict=True))))


def metrics(name: str, sums: DivergenceSums) -> dict[str, float]:
    """Return the means over the predicted tokens, and their number.

    Raises:
        PTLError: there is no predicted token.
    """
    number = sums.num_tokens
    if not number:
        raise PTLError(
            f"evaluator 'divergence': no text of '{name}' has two tokens, so none is predicted; "
            "give longer texts"
        )
    return {
        f"{name}_loss": sums.nll / number,
        f"{name}_kl": sums.divergence / number,
        f"{name}_agreement": sums.num_agreed / number,
        f"num_{name}_tokens": float(number),
    }


def _compare(
    name: str, subject: Subject, sequences: Sequence[Sequence[int]], batch_tokens: int
) -> DivergenceSums:
    """Compare with the original, which is gone when this returns."""
    import torch

    from ptl_plugins.distillation.head import head_of
    from ptl_plugins.distillation.teacher import load_beside
    from ptl_plugins.evaluators.divergence import compare

    model = subject.model
    assert model is not None
    try:
        original = load_beside(model, name, device=model.device)
    except PTLError as error:
        raise PTLError(f"evaluator 'divergence': the original {error}") from error
    theirs, ours = (head_of(each).vocabulary for each in (original, model))
    if theirs != ours:
        raise PTLError(
            f"evaluator 'divergence': the original '{name}' has {theirs} logits per token, this "
            f"model {ours}; keep the vocabulary of the original, or leave the evaluator out"
        )
    sums = compare(model, original, sequences, batch_tokens=batch_tokens)
    del original
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return sums


def _texts(chosen: Mapping[str, Any]) -> list[str]:
    form = {key: chosen[key] for key in ("column", "template", "split")}
    return read_all_texts(chosen["data"], **form)[: chosen["num_texts"]]


def _wrong_name(name: Any) -> str | None:
    if isinstance(name, str) and NAME.fullmatch(name):
        return None
    return (
        f"name: {name!r} names no metric; give letters, digits and _ without 'num_', such as "
        "other_text, for other_text_loss, other_text_kl and other_text_agreement"
    )


def _wrong_texts(settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the keys that say what a text is."""
    if "column" in settings and "template" in settings:
        return "column: there is a template, which names its columns itself; take one of both out"
    for key in ("column", "template", "split"):
        if key in settings and not (isinstance(settings[key], str) and settings[key]):
            return f"{key}: {settings[key]!r} is no text"
    return None


def _unreadable(chosen: Mapping[str, Any]) -> str | None:
    """Return why there is no text on this machine; the hub's are read when they are measured."""
    data = chosen["data"]
    if not isinstance(data, str) or not data:
        return (
            f"data: {data!r} is no file, folder or data set; allowed files: {', '.join(SUFFIXES)}"
        )
    if not is_there(data):
        is_file = data.startswith((".", "/", "~")) or Path(data).suffix in SUFFIXES
        return f"data: '{data}': no such file" if is_file else None
    try:
        read_all_texts(data, column=chosen["column"], template=chosen["template"])
    except PTLError as error:
        return str(error)
    return None
