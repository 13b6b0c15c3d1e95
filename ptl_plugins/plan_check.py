"""What every plan has to keep, of a plugin perhaps, before anything is cut; free of torch."""

from __future__ import annotations

from ptl_plugins.errors import PruneError
from ptl_plugins.types import PrunePlan


def require_uniform(plan: PrunePlan) -> None:
    """Refuse a plan that would not leave every layer the same width.

    Raises:
        PruneError: its layers lose different numbers of neurons, or what it names is not there, or
            nothing would be left.
    """
    rows = plan.removed_neurons
    if rows and len(rows) != plan.num_layers:
        raise PruneError(f"the plan names {len(rows)} layers' neurons of {plan.num_layers}")
    present = set(range(plan.width))
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]) or list(row) != sorted(present.intersection(row)):
            raise PruneError(
                f"the plan's neurons of layer {index} are not {len(rows[0])} ascending indices "
                f"below {plan.width}; every layer has to lose the same number"
            )
    if list(plan.removed_layers) != sorted(set(plan.removed_layers) & set(range(plan.num_layers))):
        raise PruneError(
            f"the plan's layers {list(plan.removed_layers)} are not ascending indices below "
            f"{plan.num_layers}"
        )
    if plan.new_width < 1 or plan.new_num_layers < 1:
        raise PruneError(
            f"the plan leaves {plan.new_num_layers} layers of {plan.new_width} neurons; at least "
            "one has to stay of each"
        )
