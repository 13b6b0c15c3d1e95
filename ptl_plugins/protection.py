"""The protect set: neurons that a second corpus needs are never removed.

The authors protect what general English uses most. Here every neuron criterion can do so: the
second corpus is profiled for the same statistics, and the `top` neurons of a layer that are most
important there get an infinite importance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptl_plugins.components import Criterion
from ptl_plugins.errors import PruneError
from ptl_plugins.types import Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def spare_protected(
    importance: NDArray[np.float32], criterion: Criterion, scores: Scores, top: int
) -> NDArray[np.float32]:
    """Return `importance` [layers, width], infinite where the second corpus protects a neuron.

    So it is where the criterion has a rule for candidates and a neuron is none.

    Raises:
        PruneError: the scores hold no second corpus, or nothing would be left to cut.
    """
    import numpy as np

    if scores.protect is None:
        raise PruneError(
            f"{top} neurons per layer shall be protected, but the scores hold no protect set; "
            "profile with a second corpus"
        )
    if top >= scores.width:
        raise PruneError(f"{top} of {scores.width} neurons per layer shall be protected: all")
    kept = protected(criterion, scores.protect, top)
    rule = candidates_rule(criterion)
    if rule is not None:
        kept = kept | ~np.asarray(rule(scores, top))
    return np.where(kept, np.float32(np.inf), importance)


def candidates_rule(criterion: Criterion) -> Callable[[Scores, int], NDArray[np.bool_]] | None:
    """Return the criterion's own rule for the neurons that may go at all, if it has one."""
    rule: Callable[[Scores, int], NDArray[np.bool_]] | None = getattr(criterion, "candidates", None)
    return rule


def least_protected(criterion: Criterion, top: int) -> int:
    """Return how many neurons of a layer are protected at least, before anything is measured."""
    return top if getattr(criterion, "protects", None) is None else 0


def protected(criterion: Criterion, scores: Scores, top: int) -> NDArray[np.bool_]:
    """Return [layers, width]: the `top` neurons of each layer that `scores` need most.

    A criterion with a rule of its own (`protects`) decides by that.
    """
    import numpy as np

    rule = getattr(criterion, "protects", None)
    if rule is not None:
        return np.asarray(rule(scores, top))
    importance = np.asarray(criterion.importance(scores))
    # the last of a stable ascending order: of equals the cut takes the earlier, this the later
    order = importance.argsort(axis=-1, kind="stable")[:, importance.shape[-1] - top :]
    mask = np.zeros(importance.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask
