"""The choice of what goes: pure functions of importances and amounts.

The width stays uniform: every layer loses the same number of neurons. Ties are broken by score,
then by index, so a choice depends on nothing but the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptl_plugins.components import Criterion, CutRequest
from ptl_plugins.criteria import BACKWARD
from ptl_plugins.errors import PruneError
from ptl_plugins.geometry import Geometry
from ptl_plugins.protection import candidates_rule, spare_protected
from ptl_plugins.registry import Registry
from ptl_plugins.schedule import num_removed
from ptl_plugins.selectors import resized, size_of
from ptl_plugins.types import Cut, PrunePlan, Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def choose(
    cuts: Sequence[Cut],
    scores: Scores,
    registry: Registry,
    *,
    original: Geometry,
    dropped: Sequence[int] = (),
    multiple_of: int = 1,
    protect_top: int = 0,
    digest: str = "",
) -> PrunePlan:
    """Return the plan of a round's cuts: the least important neurons and layers.

    Args:
        cuts: at most one per unit.
        scores: statistics of the model as it is.
        registry: where criteria and selectors are found by name.
        original: what fractions and targets refer to.
        dropped: layers that go whatever their importance; then no cut is of layers.
        multiple_of: the width that stays is a multiple of it.
        protect_top: neurons per layer that the second corpus protects; it needs
            `scores.protect`.
        digest: of the scores, kept as provenance.

    Raises:
        PruneError: a cut asks for more than there is, or scores are missing or not finite.
    """
    left = scores.num_layers - len(dropped)
    present = original.after(width=scores.width, num_layers=left)
    removed: dict[str, Any] = {"neuron": (), "layer": tuple(sorted(dropped))}
    for cut in cuts:
        importance = _importance(cut, scores, registry, protect_top)
        request = CutRequest(
            cut=cut,
            original=original,
            present=present,
            multiple_of=multiple_of,
            importance=_of_layers_that_stay(cut, importance, removed["layer"]),
        )
        number = _number(request, registry)
        rows = lowest_per_layer(importance if cut.unit == "neuron" else importance[None], number)
        if number:
            removed[cut.unit] = rows if cut.unit == "neuron" else rows[0]
        present = resized(present, cut.unit, size_of(present, cut.unit) - number)
    return PrunePlan(
        num_layers=scores.num_layers,
        width=scores.width,
        removed_neurons=removed["neuron"],
        removed_layers=removed["layer"],
        criteria=({"layer": "named"} if dropped else {}) | {c.unit: c.criterion for c in cuts},
        scores_digest=digest,
    )


def lowest_per_layer(importance: NDArray[np.float32], number: int) -> tuple[tuple[int, ...], ...]:
    """Return per row of [layers, width] the ascending indices of the `number` lowest values."""
    order = importance.argsort(axis=-1, kind="stable")[:, :number]
    order.sort(axis=-1)
    return tuple(tuple(row) for row in order.tolist())


def _importance(
    cut: Cut, scores: Scores, registry: Registry, protect_top: int
) -> NDArray[np.float32]:
    criterion = registry.criteria.get(cut.criterion)
    importance = _measured(cut, criterion, scores, "the scores")
    if cut.unit == "neuron" and protect_top:
        if scores.protect is not None:
            _measured(cut, criterion, scores.protect, "the scores of the protect set")
        importance = spare_protected(importance, criterion, scores, protect_top)
    elif cut.unit == "neuron" and candidates_rule(criterion):
        raise PruneError(
            f"criterion '{cut.criterion}' takes its candidates among as many neurons as a second "
            "corpus protects, and there is none; protect some (protect.top, --protect-top)"
        )
    return importance


def _measured(cut: Cut, criterion: Criterion, scores: Scores, whose: str) -> NDArray[np.float32]:
    """Return the importance that `scores` give, checked."""
    import numpy as np

    missing = [s for s in criterion.statistics if s.name not in scores.statistics]
    if missing:
        option = " with --gradients" if any(s.site == BACKWARD for s in missing) else ""
        raise PruneError(
            f"criterion '{cut.criterion}' needs the statistic '{missing[0].name}', which {whose} "
            f"do not hold (they hold {', '.join(sorted(scores.statistics)) or 'none'}); profile "
            f"again{option}"
        )
    importance = np.asarray(criterion.importance(scores), dtype=np.float32)
    depth, width = scores.num_layers, scores.width
    shape = (depth, width) if cut.unit == "neuron" else (depth,)
    if importance.shape != shape:
        raise PruneError(
            f"criterion '{cut.criterion}' gave an importance of shape {list(importance.shape)}, "
            f"but a {cut.unit} criterion of this model gives {list(shape)}"
        )
    _require_finite(cut, importance, whose)
    return importance


def _require_finite(cut: Cut, importance: NDArray[np.float32], whose: str) -> None:
    import numpy as np

    bad = np.argwhere(~np.isfinite(importance))
    if len(bad):
        raise PruneError(
            f"criterion '{cut.criterion}' is not finite in layer {bad[0, 0]} of {whose} "
            f"({len(bad)} of {importance.size} values): the model or its data overflow; "
            "nothing was removed"
        )


def _of_layers_that_stay(
    cut: Cut, importance: NDArray[np.float32], gone: Sequence[int]
) -> NDArray[np.float32]:
    """Return `importance` with the rows of layers that go whole made harmless.

    They keep their place, for messages that name a layer, but their neurons are all free to go:
    no threshold and no protect set has to be met in them.
    """
    import numpy as np

    if cut.unit == "neuron" and gone:
        importance = importance.copy()
        importance[list(gone)] = -np.inf
    return importance


def _number(request: CutRequest, registry: Registry) -> int:
    """Return how many go, held against how many there are."""
    number = num_removed(request, registry)
    if number is None:
        raise PruneError(f"selector '{request.cut.selector}' gave no count, importances at hand")
    assert request.importance is not None
    few = "are not protected"
    if candidates_rule(registry.criteria.get(request.cut.criterion)):
        few = "are candidates and not protected"
    _require_rest(request.cut, number, request.importance, few)
    return number


def _require_rest(cut: Cut, number: int, importance: NDArray[np.float32], few: str) -> None:
    import numpy as np

    present = importance.shape[-1]
    if number >= present:
        what = "neurons per layer" if cut.unit == "neuron" else "layers"
        raise PruneError(
            f"{number} {what} shall go, but there are only {present} and one has to stay: "
            f"{number - present + 1} too many"
        )
    free = (importance < np.inf).sum(axis=-1).reshape(-1)
    if number > free.min():
        layer = int(free.argmin())
        raise PruneError(
            f"{number} neurons per layer shall go, but in layer {layer} only {free[layer]} of "
            f"{present} {few}: {number - free[layer]} too many; protect "
            f"{'fewer' if few == 'are not protected' else 'more or fewer, or cut fewer'}"
        )
