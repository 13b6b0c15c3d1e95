"""Tells a user whose sliced model would be larger than it was; free of torch."""

from __future__ import annotations

from ptl_plugins.geometry import Geometry


def growth_note(before: Geometry, after: Geometry) -> str | None:
    """Return one line where slicing adds parameters, with both numbers, or None.

    Args:
        before: the model that is sliced.
        after: what slicing leaves.
    """
    if after.sliced_from is None or after.num_parameters <= before.num_parameters:
        return None
    old, new = (f"{sizes.num_parameters / 1e6:,.1f} M" for sizes in (before, after))
    untied = f", and the tied vocabulary of {before.vocabulary:,} is untied" if before.tied else ""
    return (
        f"slicing the hidden size {before.hidden} to {after.hidden} makes the model larger, {old} "
        f"to {new} parameters: every norm becomes a square matrix{untied}; selector: parameters "
        "meets a size"
    )
