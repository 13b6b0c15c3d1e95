"""`ptl prune` without its command line: scores and amounts become a smaller checkpoint.

Without a refit neither torch nor transformers is imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.amounts import show_amount
from ptl_plugins.checkpoint_surgery import NewOutputs, prune_checkpoint
from ptl_plugins.durable import release_dead_claim
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import NOT_AGAIN, Geometry, geometry
from ptl_plugins.model_config import model_folder
from ptl_plugins.model_digest import model_digest
from ptl_plugins.provenance import FILE, Provenance, how_it_was_cut, untouched
from ptl_plugins.registry import Registry
from ptl_plugins.scores_file import digest, read_scores
from ptl_plugins.selection import choose
from ptl_plugins.shards import Checkpoint, open_checkpoint
from ptl_plugins.side_files import side_files
from ptl_plugins.sound_weights import require_ffn, require_finite
from ptl_plugins.types import Cut, PrunePlan, Scores

TARGETS = {
    "parameters": ("--target-parameters", "num_parameters", "parameters"),
    "flops": ("--target-flops", "flops_per_token", "FLOPs per token"),
}
"""Selector -> its option, what it counts, and the name of that."""
PROTECT_SHARE = 0.05
"""Of the width, what a protect set in the scores protects unless told otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneRequest:
    """What to cut from which checkpoint."""

    model: str
    out: Path
    scores: Path | None
    cuts: tuple[Cut, ...]
    drop_layers: tuple[int, ...] = ()
    """Layers that go whatever their importance, as indices into this model."""
    multiple_of: int = 1
    protect_top: int | None = None
    refit: Path | None = None
    """Folder of second moments."""
    family: str | None = None
    """Of a model type that no family lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What came out."""

    plan: PrunePlan
    before: Geometry
    after: Geometry
    refitted: bool = False


def run_prune(request: PruneRequest, registry: Registry) -> Pruned:
    """Write the pruned checkpoint to `request.out`, whole or not at all.

    Raises:
        PTLError: the model, the scores or the amounts cannot be used; nothing is written.
    """
    release_dead_claim(request.out)
    if request.out.exists():
        raise PruneError(f"{request.out}: is there already; remove it, or name another folder")
    folder = model_folder(request.model)
    checkpoint = open_checkpoint(folder)
    family = find_family(registry, checkpoint.config, request.family)
    before = geometry(checkpoint.config, family)
    if before.sliced_from is not None:
        raise PruneError(f"{folder}: {NOT_AGAIN}")
    require_ffn(checkpoint, family, before)
    require_finite(checkpoint)
    parent = model_digest(checkpoint)
    _require_scores(request, registry)
    scores = _scores(request, before, parent)
    top = _protect_top(request, scores)
    plan = _plan(request, registry, before, scores, top)
    refit = request.refit if plan.removed_neurons else None
    prune_checkpoint(
        folder,
        request.out,
        family,
        plan,
        side_files=side_files(str(folder)),
        extra={FILE: _provenance(folder, plan, request, parent, top)},
        new_outputs=_refitted(checkpoint, family, plan, refit, parent) if refit else None,
    )
    after = before.after(width=plan.new_width, num_layers=plan.new_num_layers)
    return Pruned(plan=plan, before=before, after=after, refitted=refit is not None)


def _protect_top(request: PruneRequest, scores: Scores) -> int:
    """Return how many neurons per layer are protected, 0 where no neuron goes."""
    if not any(cut.unit == "neuron" for cut in request.cuts):
        return 0
    if request.protect_top is not None:
        return request.protect_top
    return int(scores.width * PROTECT_SHARE) if scores.protect else 0


def _plan(
    request: PruneRequest, registry: Registry, before: Geometry, scores: Scores, protect_top: int
) -> PrunePlan:
    plan = choose(
        request.cuts,
        scores,
        registry,
        original=before,
        dropped=_dropped(request.drop_layers, before),
        multiple_of=request.multiple_of,
        protect_top=protect_top,
        digest=digest(scores) if request.scores else "",
    )
    _require_done(request, plan, before)
    return plan


def _require_done(request: PruneRequest, plan: PrunePlan, before: Geometry) -> None:
    """Refuse a plan that removes nothing, or nothing of a unit of which a number shall go.

    Raises:
        PruneError: as above. A threshold or a target may find that nothing has to go.
    """
    gone = {"neuron": plan.removed_neurons, "layer": plan.removed_layers}
    for cut in request.cuts:
        number = cut.selector in ("count", "fraction") and cut.amount
        if not gone[cut.unit] and (number or not any(gone.values())):
            if cut.selector in TARGETS:
                raise PruneError(_already_met(cut, before))
            rounded = ""
            if cut.unit == "neuron" and request.multiple_of > 1:
                rounded = f", or --multiple-of {request.multiple_of} rounds it away"
            raise PruneError(
                f"no {cut.unit} would be removed: {cut.selector} {cut.amount:g} comes to none"
                f"{rounded}; change the amount"
            )


def _already_met(cut: Cut, before: Geometry) -> str:
    flag, quantity, unit = TARGETS[cut.selector]
    return (
        f"{flag} {show_amount(cut.amount)}: the model has {getattr(before, quantity):,} {unit} "
        "already; give a lower target"
    )


def _require_scores(request: PruneRequest, registry: Registry) -> None:
    for cut in request.cuts if request.scores is None else ():
        if registry.criteria.get(cut.criterion).statistics:
            raise PruneError(
                f"criterion '{cut.criterion}' needs --scores; make them with: "
                f"ptl profile {request.model} --data ... --out scores.safetensors"
            )


def _scores(request: PruneRequest, before: Geometry, parent: str) -> Scores:
    """Read the scores and hold them against the model.

    Raises:
        PruneError: they are of another model.
    """
    if request.scores is None:
        return Scores(
            statistics={},
            num_layers=before.num_layers,
            width=before.width,
            num_tokens=0,
            num_sequences=0,
        )
    scores, about = read_scores(request.scores)
    if (found := about.get("model_digest")) != parent:
        whose = f"are of another model (model_digest {str(found)[:12]}, not {parent[:12]})"
        if found is None:
            whose = "do not say which model they are of, as those of a run's round do not"
        raise PruneError(
            f"{request.scores}: the scores {whose}; profile this one with: "
            f"ptl profile {request.model} --data ... --out ..."
        )
    return scores


def _dropped(layers: Sequence[int], before: Geometry) -> tuple[int, ...]:
    outside = [layer for layer in layers if not 0 <= layer < before.num_layers]
    if outside or len(set(layers)) != len(layers):
        wrong = outside[0] if outside else next(i for i in layers if list(layers).count(i) > 1)
        raise PruneError(
            f"--drop-layers {wrong}: is not allowed; give each layer once, from 0 to "
            f"{before.num_layers - 1}"
        )
    if len(layers) == before.num_layers:
        raise PruneError("--drop-layers names every layer; at least one has to stay")
    return tuple(sorted(layers))


def _provenance(
    folder: Path, plan: PrunePlan, request: PruneRequest, parent: str, protected: int
) -> dict[str, Any]:
    """Compose the plan with where the model's own neurons and layers came from."""
    path = folder / FILE
    before = untouched(num_layers=plan.num_layers, width=plan.width)
    if path.is_file():
        try:
            before = Provenance.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise PTLError(f"{path}: cannot be read as provenance ({error}); remove it") from error
        shape = {len(before.layers), len(before.neurons)}, {len(row) for row in before.neurons}
        if shape != ({plan.num_layers}, {plan.width}):
            raise PTLError(f"{path}: is not of this model, whose shape is another; remove it")
    names = {"model": request.model, "digest": parent}
    return before.after(plan, names, _how(request, plan, protected)).to_json()


def _how(request: PruneRequest, plan: PrunePlan, protected: int) -> dict[str, Any]:
    cuts = list(request.cuts)
    if number := float(len(request.drop_layers)):
        cuts.insert(0, Cut(unit="layer", criterion="named", selector="named", amount=number))
    refit = request.refit is not None and bool(plan.removed_neurons)
    return how_it_was_cut(cuts, refit=refit, protected=protected)


def _refitted(
    checkpoint: Checkpoint, family: Family, plan: PrunePlan, moments: Path, parent: str
) -> NewOutputs:
    from ptl_plugins.checkpoint_refit import refitted_outputs
    from ptl_plugins.second_moments import MomentFolder

    folder = MomentFolder(path=moments, about={"model_digest": parent})
    return refitted_outputs(checkpoint, family, plan, folder)
