"""`ptl plan`: every round's shape from the config alone."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ptl_plugins.amounts import show_amount
from ptl_plugins.cli.options import Plugins, RecipeFile
from ptl_plugins.disk_plan import DiskPlan, plan_disk
from ptl_plugins.disk_sizes import show_bytes
from ptl_plugins.geometry import Geometry
from ptl_plugins.preflight import Plan
from ptl_plugins.types import Cut


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(plan)


def plan(
    recipe: RecipeFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
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
    rows = plan_rows(planned, disk)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _print_table(planned, rows)
        typer.echo(f"disk: {disk}")


SHAPE = ("layers", "width", "parameters", "non_embedding", "flops_ratio")


def plan_rows(planned: Plan, disk: DiskPlan) -> list[dict[str, Any]]:
    """Return one row per round, the original first, as plain values."""
    original, number = planned.original, len(planned.rounds)
    none: dict[str, Any] = {"data_part": None, "disk_bytes": 0, "disk_peak_bytes": 0}
    rows = [{"round": 0, "cut": "original", **_shape(original, original), **none}]
    for planned_round, bytes_ in zip(planned.rounds, disk.rounds, strict=True):
        spec = planned_round.spec
        shape = _shape(planned_round.geometry, original)
        part = f"{spec.index}/{number}"
        cut = " + ".join(map(_cut, spec.cuts)) or "none"
        taken = {"disk_bytes": bytes_.after, "disk_peak_bytes": bytes_.peak}
        rows.append({"round": spec.index, "cut": cut, **shape, "data_part": part, **taken})
    return rows


def _cut(cut: Cut) -> str:
    return f"{show_amount(cut.amount)} ({cut.selector}) {cut.unit} by {cut.criterion}"


def _shape(geometry: Geometry | None, original: Geometry) -> dict[str, Any]:
    if geometry is None:  # a threshold: only the scores will tell
        return dict.fromkeys(SHAPE)
    ratio = geometry.flops_per_token / original.flops_per_token
    return {
        "layers": geometry.num_layers,
        "width": geometry.width,
        "parameters": geometry.num_parameters,
        "non_embedding": geometry.non_embedding,
        "flops_ratio": round(ratio, 4),
    }


def _print_table(planned: Plan, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{planned.recipe.source}: {planned.recipe.model}", title_justify="left")
    for heading in (
        "round",
        "cut",
        "layers",
        "width",
        "parameters",
        "non-embedding",
        "FLOPs",
        "data",
        "disk",
    ):
        table.add_column(heading, justify="left" if heading == "cut" else "right")
    for row in rows:
        shape = _cells(row, planned.original) if row["width"] else ["by scores", *["-"] * 4]
        taken = show_bytes(row["disk_bytes"]) if row["round"] else "-"
        table.add_row(str(row["round"]), row["cut"], *shape, row["data_part"] or "-", taken)
    Console().print(table)


def _cells(row: dict[str, Any], original: Geometry) -> list[str]:
    kept = row["non_embedding"] / original.non_embedding
    return [
        str(row["layers"]),
        str(row["width"]),
        f"{row['parameters'] / 1e6:,.1f} M",
        f"{kept:.1%}",
        f"{row['flops_ratio']:.3f}",
    ]
