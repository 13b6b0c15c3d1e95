"""The steps of a round that slices the residual stream: PTL's answers for unit `hidden`.

Nothing is scored beforehand: the rotation of a block depends on the blocks that were sliced before
it, so that the cut itself reads the calibration sequences.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PruneError
from ptl_plugins.markers import hookimpl
from ptl_plugins.slicegpt.criterion import RANDOM_DIRECTIONS, SLICEGPT, Basis, Directions

if TYPE_CHECKING:
    from ptl_plugins.registry import Registry
    from ptl_plugins.types import PrunePlan, RoundContext, Scores, Subject


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the criteria of unit `hidden`."""
    registry.criteria.add("slicegpt", SLICEGPT)
    registry.criteria.add("random_directions", RANDOM_DIRECTIONS)


@hookimpl
def ptl_profile(ctx: RoundContext, subject: Subject) -> Scores | None:
    """Return the sizes and the tokens alone, of a round that slices; load nothing."""
    if not _slices(ctx):
        return None
    from ptl_plugins.geometry import geometry
    from ptl_plugins.model_config import read_config
    from ptl_plugins.run_folder import SCORES
    from ptl_plugins.scores_file import write_scores
    from ptl_plugins.types import Scores

    if subject.path is None:
        raise PruneError("a model in memory cannot be sliced; slice its checkpoint by ptl run")
    sizes = geometry(read_config(str(subject.path)), subject.family)
    sequences = [s for s in ctx.corpus.calibration(ctx.spec.index) if len(s)]
    if not sequences:
        raise PruneError(f"round {ctx.spec.index}: no calibration sequence holds a token")
    scores = Scores(
        statistics={},
        num_layers=sizes.num_layers,
        width=sizes.width,
        num_tokens=sum(map(len, sequences)),
        num_sequences=len(sequences),
    )
    ctx.folder.mkdir(parents=True, exist_ok=True)
    write_scores(ctx.folder / SCORES, scores)
    return scores


@hookimpl
def ptl_select(ctx: RoundContext, scores: Scores) -> PrunePlan | None:
    """Choose how many directions stay; which ones, the cut finds out."""
    if not _slices(ctx):
        return None
    from ptl_plugins.components import CutRequest
    from ptl_plugins.schedule import num_removed
    from ptl_plugins.slicegpt.growth import growth_note
    from ptl_plugins.types import PrunePlan

    (cut,) = ctx.spec.cuts
    present = ctx.original.after(width=scores.width, num_layers=scores.num_layers)
    request = CutRequest(
        cut=cut, original=ctx.original, present=present, multiple_of=ctx.recipe.multiple_of
    )
    removed = num_removed(request, ctx.registry)
    assert removed is not None, "the plan of the run has refused such a selector"
    if note := growth_note(present, present.sliced(present.hidden - removed)):
        ctx.log.say(f"round {ctx.spec.index}: {note}")
    return PrunePlan(
        num_layers=scores.num_layers,
        width=scores.width,
        removed_neurons=(),
        removed_layers=(),
        criteria={"hidden": cut.criterion},
        scores_digest="",
        new_hidden=present.hidden - removed,
    )


@hookimpl
def ptl_prune(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> Subject | None:
    """Write the sliced checkpoint, from the round's calibration sequences."""
    if plan.new_hidden is None:
        return None
    from ptl_plugins.kept_files import PRUNED
    from ptl_plugins.run_folder import MODEL
    from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint

    assert subject.path is not None, "profiling has refused a model in memory"
    out = ctx.folder / (PRUNED if ctx.stages else MODEL)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()  # a kill may have left the name, claimed but empty
    if not out.exists():
        request = SliceRequest(
            source=subject.path,
            out=out,
            family=subject.family,
            hidden=plan.new_hidden,
            sequences=ctx.corpus.calibration(ctx.spec.index),
            batch_tokens=ctx.recipe.calibration.batch_tokens,
            basis=_basis(ctx, plan.criteria["hidden"]),
            seed=ctx.recipe.seed,
            provenance=_provenance(ctx, subject, plan),
        )
        ctx.log.say(f"round {ctx.spec.index}: {slice_checkpoint(request)}")
    return dataclasses.replace(subject, path=out)


def _basis(ctx: RoundContext, name: str) -> Basis:
    criterion = ctx.registry.criteria.get(name)
    if not isinstance(criterion, Directions):
        raise PruneError(
            f"criterion '{name}' of unit 'hidden' gives no basis; it has to be a "
            "ptl_plugins.slicegpt.criterion.Directions"
        )
    return criterion.basis


def _slices(ctx: RoundContext) -> bool:
    return any(cut.unit == "hidden" for cut in ctx.spec.cuts)


def _provenance(ctx: RoundContext, subject: Subject, plan: PrunePlan) -> dict[str, Any]:
    import json

    from ptl_plugins.provenance import FILE, Provenance, how_it_was_cut, untouched

    assert subject.path is not None
    before = untouched(num_layers=plan.num_layers, width=plan.width)
    if (path := subject.path / FILE).is_file():
        before = Provenance.from_json(json.loads(path.read_text(encoding="utf-8")))
    how = how_it_was_cut(ctx.spec.cuts, refit=False, protected=0)
    how["hidden"] = [ctx.original.hidden, plan.new_hidden]
    return before.after(plan, {"model": str(subject.path)}, how).to_json()
