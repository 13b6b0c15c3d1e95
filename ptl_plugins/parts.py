"""The corpus is shuffled once and cut by document into parts, one per round."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptl_plugins.errors import PTLError


def cut_documents(
    num_documents: int, weights: Sequence[int], *, seed: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the document indices of each part, in shuffled order.

    The parts do not overlap and stand one after the other in the shuffled corpus. Each has its
    share rounded down; the fewer than `len(weights)` documents left over at the end are used by
    none.

    Args:
        num_documents: of the corpus.
        weights: whole numbers above 0, one per part; equal weights make equal parts.
        seed: of the shuffle, which does not depend on the weights.

    Raises:
        PTLError: a part would have no document.
    """
    sizes = part_sizes(num_documents, weights)
    order = np.random.default_rng(seed).permutation(num_documents)
    ends = itertools.accumulate(sizes)
    return tuple(order[end - size : end] for end, size in zip(ends, sizes, strict=True))


def part_sizes(num_documents: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Return how many documents each part has; arguments and errors as in `cut_documents`."""
    number, total = len(weights), sum(weights)
    if num_documents < number:
        raise PTLError(
            f"the corpus has {num_documents} documents for {number} rounds, and each round "
            "needs a part of its own; give more documents or fewer rounds"
        )
    sizes = tuple(num_documents * weight // total for weight in weights)  # exact: no floats
    if 0 in sizes:
        index = sizes.index(0)
        raise PTLError(
            f"tokens: part {index + 1} of {number} would have none of {num_documents} documents: "
            f"its share is {weights[index] / total:.3g}; give more documents or fewer rounds, or "
            "set 'tokens: equal'"
        )
    return sizes
