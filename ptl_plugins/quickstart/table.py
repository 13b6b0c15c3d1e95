"""The quickstart's table: what was cut, what it cost, what came back; whatever was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptl_plugins.run_folder import RunFolder
from ptl_plugins.types import EvalResult, RoundRecord

COLUMNS = (
    "model", "parameters", "non-embedding", "layers", "width", "CoT loss", "step results",
    "answers", "seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line; None is shown as missing."""

    model: str
    num_parameters: int
    non_embedding_kept: float
    """Fraction of the original's non-embedding parameters."""
    num_layers: int
    width: int
    cot_loss: float | None
    step_accuracy: float | None
    answers: dict[str, Any] | None
    seconds: float | None
    """Wall seconds of the step that led to this row, evaluation excluded."""


def build_rows(
    run: Path, control: Path, answers: dict[str, Any], *, num_embedding: int
) -> list[Row]:
    """Return the rows: the original, each round before and after recovery, the control."""
    records = RunFolder(run, writes=False).records()
    original, rounds = records[0], records[1:]
    base = original.num_parameters - num_embedding

    def row(name: str, record: RoundRecord, result: EvalResult | None, seconds: float | None,
            answer: str | None = None) -> Row:  # fmt: skip
        metrics = result.metrics if result else {}
        return Row(
            model=name,
            num_parameters=record.num_parameters,
            non_embedding_kept=(record.num_parameters - num_embedding) / base,
            num_layers=record.num_layers,
            width=record.width,
            cot_loss=metrics.get("cot_loss"),
            step_accuracy=metrics.get("step_accuracy"),
            answers=answers.get(answer) if answer else None,
            seconds=seconds,
        )

    rows = [row("original", original, original.recovered, 0.0, "original")]
    for record in rounds:
        cut = sum(record.seconds.get(step, 0.0) for step in ("profile", "select", "prune"))
        recovery = record.seconds.get("recover")
        last = "end" if record is rounds[-1] else None
        rows.append(row(f"round {record.round} pruned", record, record.pruned, cut))
        rows.append(
            row(f"round {record.round} recovered", record, record.recovered, recovery, last)
        )
    trained = RunFolder(control, writes=False).records()
    seconds = sum(record.seconds.get("recover", 0.0) for record in trained)
    rows.append(
        row("control (nothing pruned)", trained[-1], trained[-1].recovered, seconds, "control")
    )
    return rows


def to_markdown(rows: Sequence[Row], facts: Sequence[str]) -> str:
    """Return the table and the facts below it as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts)]) + "\n"


def to_json(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the table as plain values."""
    return {"rows": [asdict(row) for row in rows], **facts}


def cells(row: Row) -> list[str]:
    """Return a row's cells as text."""
    return [
        row.model,
        f"{row.num_parameters / 1e6:.1f} M",
        f"{row.non_embedding_kept:.1%}",
        str(row.num_layers),
        str(row.width),
        _number(row.cot_loss, ".3f"),
        _number(row.step_accuracy, ".1%"),
        _answers(row.answers),
        _number(row.seconds, ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _answers(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    return f"{result['accuracy']:.1%} +- {result['standard_error']:.1%}"
