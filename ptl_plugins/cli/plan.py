"""`ptl plan`: every round's shape from the config alone."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from ptl_plugins.amounts import show_amount
from ptl_plugins.cli.options import Plugins, RecipeFile
from ptl_plugins.disk_plan import DiskPlan, plan_disk
from ptl_plugins.disk_sizes import show_bytes
from ptl_plugins.geometry import Geometry
from ptl_plugins.preflight import Plan
from ptl_plugins.slicegpt.growth import growth_notes, hidden_of_original
from ptl_plugins.types import Cut

MOST_TOKENS = 10**15
DIGITS = re.compile("[0-9]{1,16}")


def num_tokens(text: str) -> int:
    """Return a number of tokens from the command line.

    Raises:
        typer.BadParameter: it is no whole number from 1 to `MOST_TOKENS`.
    """
    number = int(text) if DIGITS.fullmatch(text) else 0
    if not 1 <= number <= MOST_TOKENS:
        raise typer.BadParameter(
            f"'{text[:40]}' is not a positive whole number (at most {MOST_TOKENS}); give the "
            "tokens of one question, prompt and answer"
        )
    return number


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(plan)


def plan(
    recipe: RecipeFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    tokens: Annotated[
        int | None,
        typer.Option(
            parser=num_tokens, metavar="N", help="Add the FLOPs of N tokens, as the paper counts."
        ),
    ] = None,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Print every round's layers, width, parameters, FLOPs ratio, data and disk; load nothing."""
    from ptl_plugins.manager import build_manager, build_registry
    from ptl_plugins.preflight import plan_run
    from ptl_plugins.recipe_file import read_recipe

    manager = build_manager(plugins=plugins)
    registry = build_registry(manager)
    planned = plan_run(read_recipe(recipe, manager.hook, registry, thorough=False), registry)
    disk = plan_disk(planned)
    rows = plan_rows(planned, disk, tokens=tokens)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _print_table(planned, rows, tokens)
        for row in rows:
            if row["note"]:
                typer.echo(f"round {row['round']}: {row['note']}")
        typer.echo(f"disk: {disk}")


SHAPE = ("layers", "width", "hidden", "parameters", "non_embedding", "flops_ratio")
HEADINGS = ("round", "cut", "layers", "width", "parameters", "non-embedding", "FLOPs")
HIDDEN_COLUMN = HEADINGS.index("parameters")
"""Where the hidden size stands in a plan that slices."""


def plan_rows(planned: Plan, disk: DiskPlan, *, tokens: int | None = None) -> list[dict[str, Any]]:
    """Return one row per round, the original first, as plain values.

    Args:
        planned: the rounds and their shapes.
        disk: what they take on the disk.
        tokens: if given, `flops` of a row is the paper's count of so many tokens.
    """
    original, number = planned.original, len(planned.rounds)
    none: dict[str, Any] = {
        "data_part": None,
        "data_share": None,
        "disk_bytes": 0,
        "disk_peak_bytes": 0,
        "note": None,
    }
    notes = growth_notes(original, planned.rounds)
    rows = [{"round": 0, "cut": "original", **_shape(original, original, tokens), **none}]
    for planned_round, bytes_, weight in zip(
        planned.rounds, disk.rounds, planned.weights, strict=True
    ):
        spec = planned_round.spec
        shape = _shape(planned_round.geometry, original, tokens)
        part, share = f"{spec.index}/{number}", weight / sum(planned.weights)
        cut = " + ".join(map(_cut, spec.cuts)) or "none"
        taken = {"disk_bytes": bytes_.after, "disk_peak_bytes": bytes_.peak}
        rows.append(
            {
                "round": spec.index,
                "cut": cut,
                **shape,
                "data_part": part,
                "data_share": share,
                **taken,
                "note": notes.get(spec.index),
            }
        )
    return rows


def _cut(cut: Cut) -> str:
    return f"{show_amount(cut.amount)} ({cut.selector}) {cut.unit} by {cut.criterion}"


def _shape(geometry: Geometry | None, original: Geometry, tokens: int | None) -> dict[str, Any]:
    if geometry is None:  # a threshold: only the scores will tell
        return dict.fromkeys((*SHAPE, "flops") if tokens else SHAPE)
    ratio = geometry.flops_per_token / original.flops_per_token
    shape = {
        "layers": geometry.num_layers,
        "width": geometry.width,
        "hidden": geometry.hidden,
        "parameters": geometry.num_parameters,
        "non_embedding": geometry.non_embedding,
        "flops_ratio": round(ratio, 4),
    }
    return {**shape, "flops": geometry.flops_per_token * tokens} if tokens else shape


def _print_table(planned: Plan, rows: list[dict[str, Any]], tokens: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{planned.recipe.source}: {planned.recipe.model}", title_justify="left")
    of_tokens = [f"of {tokens:,} tokens"] if tokens else []
    if tokens:
        table.caption = (
            f"FLOPs of {tokens:,} tokens: 2 x (non-embedding weights + lm_head) x tokens, the "
            "paper's count, without attention over the context; T is 10^12"
        )
        table.caption_justify = "left"
    hidden = _hidden_cells(planned)
    headings = [*HEADINGS, *of_tokens, "data", "disk"]
    if any(hidden):
        headings.insert(HIDDEN_COLUMN, "hidden")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "cut" else "right")
    unknown = ["by scores", *["-"] * (4 + len(of_tokens))]
    for row, sliced in zip(rows, hidden, strict=True):
        shape = _cells(row, planned.original) if row["width"] else unknown
        taken = show_bytes(row["disk_bytes"]) if row["round"] else "-"
        cells = [str(row["round"]), row["cut"], *shape, _part(row, planned), taken]
        if any(hidden):
            cells.insert(HIDDEN_COLUMN, sliced or str(row["hidden"] or "-"))
        table.add_row(*cells)
    Console().print(table)


def _hidden_cells(planned: Plan) -> list[str | None]:
    """Return the hidden size of each row where slicing has changed it; else None."""
    shapes = [planned.original, *(each.geometry for each in planned.rounds)]
    return [hidden_of_original(shape) if shape else None for shape in shapes]


def _part(row: dict[str, Any], planned: Plan) -> str:
    """Return which part of the corpus a round has, and its share of the texts if they differ."""
    if not row["round"]:
        return "-"
    differ = len(set(planned.weights)) > 1
    return f"{row['data_part']}: {row['data_share']:.1%}" if differ else str(row["data_part"])


def _cells(row: dict[str, Any], original: Geometry) -> list[str]:
    kept = row["non_embedding"] / original.non_embedding
    of_tokens = [f"{row['flops'] / 1e12:,.1f} T"] if "flops" in row else []
    return [
        str(row["layers"]),
        str(row["width"]),
        f"{row['parameters'] / 1e6:,.1f} M",
        f"{kept:.1%}",
        f"{row['flops_ratio']:.3f}",
        *of_tokens,
    ]
