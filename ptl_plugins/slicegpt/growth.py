"""Tells a user whose sliced model would be larger than it was; free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptl_plugins.geometry import Geometry

if TYPE_CHECKING:
    from ptl_plugins.schedule import PlannedRound


def growth_notes(original: Geometry, rounds: Iterable[PlannedRound]) -> dict[int, str]:
    """Return, by round index, the note of a round whose slicing makes the model larger.

    Args:
        original: the sizes before the first round.
        rounds: all rounds; one whose shape only the scores tell has no note.
    """
    notes, before = {}, original
    for planned in rounds:
        after = planned.geometry
        if after is None:
            break  # of no later round the shape is known
        slices = any(cut.unit == "hidden" for cut in planned.spec.cuts)
        if slices and (note := growth_note(before, after)):
            notes[planned.spec.index] = note
        before = after
    return notes


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


def hidden_of_original(sizes: Geometry) -> str | None:
    """Return a sliced hidden size and what it was, `328 of 576`; None where it is as it was."""
    if sizes.sliced_from in (None, sizes.hidden):
        return None
    return f"{sizes.hidden} of {sizes.sliced_from}"
