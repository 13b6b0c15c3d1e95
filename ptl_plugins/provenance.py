"""Where each neuron and layer of a pruned checkpoint came from: `ptl_pruning.json`.

Indices are those of the ORIGINAL model, composed over the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptl_plugins.state_file import intact, read_state
from ptl_plugins.types import Cut, PrunePlan

if TYPE_CHECKING:
    from ptl_plugins.run_folder import RunFolder

FILE = "ptl_pruning.json"
REMEDY = "copy the round's from model/ beside it, or bring it back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The original indices of what is left, and the cuts that led there."""

    layers: tuple[int, ...]
    """Original index of each remaining layer."""
    neurons: tuple[tuple[int, ...], ...]
    """Per remaining layer, the original indices of its neurons."""
    history: tuple[Mapping[str, Any], ...] = ()
    """One entry per cut: criteria, digest of the scores, shapes, amounts, refit, protection."""

    def after(
        self,
        plan: PrunePlan,
        parent: Mapping[str, str] | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> Provenance:
        """Return the provenance after `plan` was carried out on the checkpoint `parent`.

        Args:
            plan: what went.
            parent: names the checkpoint it went from.
            how: what `how_it_was_cut` returned.
        """
        kept = plan.kept_layers()
        return Provenance(
            layers=tuple(self.layers[i] for i in kept),
            neurons=tuple(
                tuple(self.neurons[i][neuron] for neuron in plan.kept_neurons(i)) for i in kept
            ),
            history=(*self.history, {**_entry(plan, parent), **(how or {})}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {
            "layers": list(self.layers),
            "neurons": [list(row) for row in self.neurons],
            "history": [dict(entry) for entry in self.history],
        }

    @classmethod
    def from_json(cls, keys: Mapping[str, Any]) -> Provenance:
        """Read what `to_json` wrote."""
        return cls(
            layers=tuple(keys["layers"]),
            neurons=tuple(tuple(row) for row in keys["neurons"]),
            history=tuple(dict(entry) for entry in keys["history"]),
        )


def untouched(*, num_layers: int, width: int) -> Provenance:
    """Return the provenance of a model that nothing was cut from."""
    return Provenance(layers=tuple(range(num_layers)), neurons=(tuple(range(width)),) * num_layers)


def how_it_was_cut(cuts: Sequence[Cut], *, refit: bool, protected: int) -> dict[str, Any]:
    """Return what a plan does not tell: the cuts as asked for, the refit, the protection."""
    keys = ("unit", "criterion", "selector", "amount")
    return {
        "cuts": [{key: getattr(cut, key) for key in keys} for cut in cuts],
        "refit": "ridge" if refit else "none",
        "protected": protected,
    }


def read_latest(run: RunFolder, index: int, shape: Mapping[str, int]) -> Provenance:
    """Return the provenance as of round `index`: that of the last round up to it that cut.

    Where no round cut yet, it is the original's own `ptl_pruning.json`, kept in round 0, or
    that of an untouched model of `shape` (`num_layers`, `width`).
    """
    for number in range(index, -1, -1):
        path = run.round_folder(number) / FILE
        if path.exists():
            with intact(path, REMEDY):
                return Provenance.from_json(read_state(path, REMEDY))
    return untouched(num_layers=shape["num_layers"], width=shape["width"])


def _entry(plan: PrunePlan, parent: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "parent": dict(parent or {}),
        "criteria": dict(plan.criteria),
        "scores_digest": plan.scores_digest,
        "layers": [plan.num_layers, plan.new_num_layers],
        "width": [plan.width, plan.new_width],
    }
