"""Both models in turn: what disturbs the machine for a while disturbs both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ptl_plugins.speed.engine import Engine, Sample

Pass = Callable[[Engine, int], Mapping[str, Sample]]
"""Runs an engine on the prompt of this index; returns a sample by measure."""
Row = tuple[Sample, ...]
"""The samples of one repeat, by prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The samples of one measure, seconds each: `model[r][p]` was taken beside `baseline[r][p]`."""

    measure: str
    model: tuple[Row, ...]
    baseline: tuple[Row, ...]


def take_turns(
    model: Engine, baseline: Engine, run: Pass, *, warmups: int, repeats: int, num_prompts: int
) -> tuple[Timing, ...]:
    """Run both engines on every prompt in every repeat, in the order A B, B A, A B, ...

    No engine runs more than twice in a row, and over the repeats each prompt is begun with by
    either engine equally often. Warm-ups run in the same order and are thrown away.

    Args:
        model: engine A.
        baseline: engine B.
        run: what is timed; its samples are kept by the names it gives them.
        warmups: pairs before the first that counts.
        repeats: rows of samples.
        num_prompts: samples in a row.
    """
    for index in range(warmups):
        _pair(model, baseline, run, index % num_prompts, model_first=index % 2 == 0)
    rows: list[list[tuple[Mapping[str, Sample], Mapping[str, Sample]]]] = [
        [
            _pair(model, baseline, run, prompt, model_first=(repeat + prompt) % 2 == 0)
            for prompt in range(num_prompts)
        ]
        for repeat in range(repeats)
    ]
    return tuple(
        Timing(
            measure=measure,
            model=tuple(tuple(ours[measure] for ours, _ in row) for row in rows),
            baseline=tuple(tuple(theirs[measure] for _, theirs in row) for row in rows),
        )
        for measure in rows[0][0][0]
    )


def _pair(
    model: Engine, baseline: Engine, run: Pass, prompt: int, *, model_first: bool
) -> tuple[Mapping[str, Sample], Mapping[str, Sample]]:
    """Run both, and return the model's samples before the baseline's whatever the order was."""
    if model_first:
        ours = run(model, prompt)
        return ours, run(baseline, prompt)
    theirs = run(baseline, prompt)
    return run(model, prompt), theirs
