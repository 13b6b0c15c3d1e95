"""Cuts LLaMA-Factory's corpus by document before it is packed.

LLaMA-Factory packs documents into blocks of `cutoff_len`. Cutting afterwards would put halves
of one document into two rounds. So each part goes through LLaMA-Factory's own preprocessing by
itself, and the rows are put one after the other; a round then trains on its range of rows.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llamafactory_ext.launching import end_with
from llamafactory_ext.session import Parts, Session
from ptl_plugins.errors import PTLError
from ptl_plugins.parts import cut_documents

if TYPE_CHECKING:
    from datasets import Dataset

Preprocess = Callable[..., Any]


def preprocess_by_parts(loader: ModuleType, session: Session) -> Preprocess:
    """Return the replacement of `loader._get_preprocessed_dataset`."""
    original: Preprocess = loader._get_preprocessed_dataset

    def preprocess(
        dataset: Any,
        data_args: Any,
        training_args: Any,
        stage: str,
        template: Any,
        tokenizer: Any,
        processor: Any = None,
        is_eval: bool = False,
    ) -> Any:
        rest = (data_args, training_args, stage, template, tokenizer, processor)
        if is_eval or dataset is None:
            return original(dataset, *rest, is_eval=is_eval)
        try:
            return _by_parts(loader, session, original, dataset, rest)
        except PTLError as error:
            end_with(error)

    return preprocess


def _by_parts(
    loader: ModuleType, session: Session, original: Preprocess, dataset: Dataset, rest: Any
) -> Dataset:
    from datasets import concatenate_datasets

    recipe = session.plan.recipe
    where = f"{recipe.source}: dataset: '{rest[0].dataset}'"
    try:
        documents = cut_documents(len(dataset), session.plan.weights, seed=recipe.seed)
    except PTLError as error:
        raise PTLError(f"{where}: {error}") from error
    parts = [dataset.select(indices) for indices in documents]
    rows = [_preprocess(original, part, rest, quiet=i > 0) for i, part in enumerate(parts)]
    for index, part in enumerate(rows, start=1):
        if part is None or len(part) == 0:
            raise PTLError(
                f"{where}: the part of round {index} ({len(parts[index - 1])} documents) does not "
                f"fill one block of cutoff_len {rest[0].cutoff_len}; give more documents, fewer "
                "rounds or a smaller cutoff_len"
            )
    session.parts = Parts(
        rows=_ranges([len(part) for part in rows]),
        sequences=tuple(_calibration(loader, session, part, rest) for part in parts),
    )
    return concatenate_datasets(rows)


def _preprocess(original: Preprocess, part: Dataset, rest: Any, *, quiet: bool) -> Any:
    """Run LLaMA-Factory's preprocessing; its example of the data is printed once, not per part."""
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    with silence:
        try:
            return original(part, *rest, is_eval=False)
        except RuntimeError as error:  # raised in the main rank when nothing is left
            if "Cannot find sufficient samples" not in str(error):
                raise
            return None


def _ranges(sizes: Sequence[int]) -> tuple[range, ...]:
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _calibration(loader: ModuleType, session: Session, part: Dataset, rest: Any) -> list[list[int]]:
    """Return the first documents of a part as token ids, unpacked, by LLaMA-Factory's rules."""
    data_args, _, stage, template, tokenizer, processor = rest
    calibration = session.plan.recipe.calibration
    unpacked = copy.copy(data_args)
    unpacked.packing = False
    unpacked.cutoff_len = calibration.max_length or data_args.cutoff_len
    rule = loader._get_dataset_processor(unpacked, stage, template, tokenizer, processor)
    examples = part[: min(calibration.num_sequences, len(part))]
    ids: list[list[int]] = rule.preprocess_dataset(examples)["input_ids"]
    return ids
