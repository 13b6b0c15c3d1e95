"""`ptl prune`: a smaller checkpoint from scores, without loading the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins
from ptl_plugins.errors import PTLError

if TYPE_CHECKING:
    from ptl_plugins.prune_run import Pruned
    from ptl_plugins.registry import Registry
    from ptl_plugins.types import Cut, Unit


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(prune)


def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder or hub name.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there.")],
    scores: Annotated[Path | None, typer.Option(help="What ptl profile wrote.")] = None,
    criterion: Annotated[str, typer.Option(help="Of neurons: ptl ls criteria.")] = "",
    neurons: Annotated[
        str | None, typer.Option(metavar="N", help="Neurons that every layer loses.")
    ] = None,
    neuron_fraction: Annotated[
        str | None, typer.Option(metavar="F", help="The same as a fraction of the width.")
    ] = None,
    neuron_threshold: Annotated[
        str | None, typer.Option(metavar="S", help="Neurons of importance <= S, equally many.")
    ] = None,
    target_parameters: Annotated[
        str | None,
        typer.Option(metavar="P", help="Neurons until P is left: a ratio, or a number (5B)."),
    ] = None,
    target_flops: Annotated[
        str | None, typer.Option(metavar="R", help="The same for FLOPs per token, a ratio.")
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="K", help="Layers that go.")] = None,
    drop_layers: Annotated[
        str | None, typer.Option(metavar="I,J", help="The layers that go, from 0.")
    ] = None,
    layer_threshold: Annotated[
        str | None, typer.Option(metavar="S", help="Layers of importance <= S.")
    ] = None,
    layer_criterion: Annotated[str, typer.Option(help="Of layers: ptl ls criteria.")] = "",
    multiple_of: Annotated[int, typer.Option(min=1, help="The width left is one of it.")] = 1,
    protect_top: Annotated[
        int | None, typer.Option(min=0, help="Neurons per layer that the protect set protects.")
    ] = None,
    refit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Second moments; refits down_proj.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a model type that no family lists.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Cut neurons and layers out of a checkpoint; only what stays is read."""
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.prune_run import PruneRequest, run_prune

    registry = build_registry(build_manager(plugins=plugins))
    of_neurons = {
        "--neurons": ("count", neurons),
        "--neuron-fraction": ("fraction", neuron_fraction),
        "--neuron-threshold": ("threshold", neuron_threshold),
        "--target-parameters": ("parameters", target_parameters),
        "--target-flops": ("flops", target_flops),
    }
    of_layers = {
        "--layers": ("count", layers),
        "--layer-threshold": ("threshold", layer_threshold),
        "--drop-layers": ("named", drop_layers),
    }
    of_use = {
        "--criterion": criterion,
        "--multiple-of": multiple_of > 1,
        "--protect-top": protect_top,
        "--refit": refit,
    }
    _require_cut(of_use, of_neurons)
    _require_cut({"--layer-criterion": layer_criterion}, of_layers, but="--drop-layers")
    # layers first: a target counts them
    cuts = [
        *_cut("layer", layer_criterion, of_layers, registry),
        *_cut("neuron", criterion, of_neurons, registry),
    ]
    dropped = _indices(drop_layers) if drop_layers is not None else ()
    if not cuts and not dropped:
        raise PTLError(f"prune: nothing to cut; give one of {', '.join(of_neurons | of_layers)}")
    request = PruneRequest(
        model=model,
        out=out,
        scores=scores,
        cuts=tuple(cuts),
        drop_layers=dropped,
        multiple_of=multiple_of,
        protect_top=protect_top,
        refit=refit,
        family=family,
    )
    _print(run_prune(request, registry), out)


def _require_cut(
    given: dict[str, object], options: dict[str, tuple[str, str | None]], but: str = ""
) -> None:
    """Refuse what would be of no use, because nothing is cut that it is about."""
    flags = [flag for flag in options if flag != but]
    if any(options[flag][1] is not None for flag in flags):
        return
    for flag in filter(given.get, given):
        raise PTLError(f"prune: {flag} is of no use without one of {', '.join(flags)}")


def _cut(
    unit: Unit, criterion: str, options: dict[str, tuple[str, str | None]], registry: Registry
) -> Iterator[Cut]:
    """Yield the unit's cut, checked; at most one of the options may be given."""
    from ptl_plugins.criteria import DEFAULT_CRITERION
    from ptl_plugins.selectors import units
    from ptl_plugins.types import Cut

    given = [
        (flag, selector, text) for flag, (selector, text) in options.items() if text is not None
    ]
    if len(given) > 1:
        raise PTLError(f"prune: {given[0][0]} and {given[1][0]} exclude each other; give one")
    for flag, selector, text in given:
        if selector == "named":
            continue
        cut = Cut(
            unit=unit,
            criterion=criterion or DEFAULT_CRITERION[unit],
            selector=selector,
            amount=_number(flag, text),
        )
        wrong = registry.selectors.get(selector).check(cut)
        if wrong:
            raise PTLError(f"prune: {flag}: {wrong}")
        if (found := registry.criteria.get(cut.criterion).unit) != unit:
            raise PTLError(
                f"prune: criterion '{cut.criterion}' scores {units(found)}, not {unit}s; "
                "'ptl ls criteria' lists them"
            )
        yield cut


def _number(flag: str, text: str) -> float:
    from ptl_plugins.amounts import read_amount

    try:
        value = float(read_amount(text))  # type: ignore[arg-type]
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise PTLError(f"prune: {flag}: '{text}' is not a number of 0 or more")
    return value


def _indices(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PTLError(
            f"prune: --drop-layers: '{text}' is not a list of layers such as 3,7"
        ) from None


def _print(pruned: Pruned, out: Path) -> None:
    before, after = pruned.before, pruned.after
    typer.echo(
        f"{out}: width {before.width} -> {after.width}, layers {before.num_layers} -> "
        f"{after.num_layers}, parameters {before.num_parameters:,} -> {after.num_parameters:,} "
        f"({after.num_parameters / before.num_parameters:.1%})"
        f"{', refitted' if pruned.refitted else ''}"
    )
