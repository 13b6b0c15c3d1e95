"""The corpus is shuffled once and cut by document into equal parts, one per round."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptl_plugins.errors import PTLError


def cut_documents(
    num_documents: int, num_parts: int, *, seed: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the document indices of each part, in shuffled order.

    The parts are equal in size and do not overlap; the up to `num_parts - 1` documents left
    over at the end are used by none.

    Raises:
        PTLError: there are fewer documents than parts.
    """
    if num_documents < num_parts:
        raise PTLError(
            f"the corpus has {num_documents} documents for {num_parts} rounds, and each round "
            "needs a part of its own; give more documents or fewer rounds"
        )
    order = np.random.default_rng(seed).permutation(num_documents)
    size = num_documents // num_parts
    return tuple(order[index * size : (index + 1) * size] for index in range(num_parts))
