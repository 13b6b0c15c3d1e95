"""A round whose training diverged, taken in two smaller steps: its cuts, its place, its trace.

The folder of the failed try is set aside as `failed_KK_round_NN`; its `failed.json` tells what
the two rounds in its place cut, so that the same command goes on with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ptl_plugins import durable
from ptl_plugins.divergence import FAILED, Failure, Halves, read_failure
from ptl_plugins.run_folder import RECORD, RunFolder
from ptl_plugins.types import Cut, PrunePlan, Recipe, RoundSpec

MOST_HALVINGS = 3
"""Of one round of the recipe, its steps' halvings among them."""
TEXT = (".json", ".jsonl", ".log", ".txt", ".yaml", ".out", ".sh")
"""What stays of a failed try: what tells about it, no weights."""


def halves_of(spec: RoundSpec, plan: PrunePlan, *, multiple_of: int) -> Halves | None:
    """Return the cuts of two rounds that together remove what `plan` would have; None: no way.

    The first removes half of it, rounded down to what `multiple_of` allows; a unit of which only
    one would go waits for the second. A threshold stays one in the second: nothing above it goes.
    """
    pairs = [_halved(cut, plan, multiple_of) for cut in spec.cuts]
    first = tuple(half for half, _ in pairs if half is not None)
    rest = tuple(rest for _, rest in pairs if rest is not None)
    return (first, rest) if first else None


def _halved(cut: Cut, plan: PrunePlan, multiple_of: int) -> tuple[Cut | None, Cut | None]:
    number, half = _removed(cut, plan), 0
    if cut.unit == "layer":
        half = number // 2
    elif cut.unit == "neuron":  # a sliced model cannot be sliced again: `hidden` stays whole
        half = max(0, plan.width - _rounded_up(plan.width - number // 2, multiple_of))
    first = replace(cut, selector="count", amount=float(half), rounds_left=1) if half else None
    rest = replace(cut, selector="count", amount=float(number - half), rounds_left=1)
    if cut.selector == "threshold" or cut.unit == "hidden":
        rest = cut
    return first, rest if number else None


def _removed(cut: Cut, plan: PrunePlan) -> int:
    if cut.unit == "hidden":
        return 1 if plan.new_hidden is not None else 0
    if cut.unit == "layer":
        return plan.num_layers - plan.new_num_layers
    return plan.width - plan.new_width


def _rounded_up(number: int, multiple_of: int) -> int:
    return -(-number // multiple_of) * multiple_of


def split_round(rounds: Sequence[RoundSpec], index: int, halves: Halves) -> tuple[RoundSpec, ...]:
    """Return the rounds with two in the place of round `index`; those behind it move on by one."""
    failed = rounds[index - 1]
    steps = (
        RoundSpec(index=index + place, cuts=cuts, step_of=failed.planned)
        for place, cuts in enumerate(halves)
    )
    later = (replace(s, index=s.index + 1, step_of=s.planned) for s in rounds[index:])
    return (*rounds[: index - 1], *steps, *later)


def in_smaller_steps(
    rounds: Sequence[RoundSpec], failures: Sequence[Failure]
) -> tuple[RoundSpec, ...]:
    """Return the recipe's rounds as a run with these failures takes them."""
    taken = tuple(rounds)
    for failure in failures:
        assert failure.halves is not None, "only a halved round is set aside"
        taken = split_round(taken, failure.round, failure.halves)
    return taken


def with_half_steps(recipe: Recipe, run: RunFolder) -> Recipe:
    """Return the recipe with the rounds that its run folder says it takes.

    Raises:
        RunFolderError: a `failed.json` is damaged.
    """
    failures = set_aside(run.path)
    if not failures:
        return recipe
    return split_recipe(recipe, in_smaller_steps(recipe.planned_rounds, failures))


def split_recipe(recipe: Recipe, rounds: tuple[RoundSpec, ...]) -> Recipe:
    """Return the recipe with other rounds; it still knows those of its file."""
    return replace(recipe, rounds=rounds, written_rounds=recipe.planned_rounds)


def set_aside(run: Path) -> tuple[Failure, ...]:
    """Return the failures whose rounds were taken in smaller steps, in their order.

    Raises:
        RunFolderError: a `failed.json` is damaged.
    """
    return tuple(read_failure(folder / FAILED) for folder in _folders(run))


def set_round_aside(run: RunFolder, index: int, halves: Halves, *, keeps_all: bool) -> Path:
    """Note the halves in the failed round's folder, and move it out of the way; return where to.

    The move is what counts: before it the round is still a failed one. Its weights go, unless
    all is kept; the last good round's and the original's lie elsewhere.
    """
    folder = run.round_folder(index)
    assert not (folder / RECORD).exists(), "a recorded round is a good one"
    failure = replace(read_failure(folder / FAILED), halves=halves)
    run.write(folder / FAILED, dataclasses.asdict(failure))
    if not keeps_all:
        _remove_weights(folder)
    number = sum(1 for _ in _folders(run.path)) + 1
    target = run.path / f"failed_{number:02d}_{folder.name}"
    durable.replace(folder, target)
    return target


def _folders(run: Path) -> Iterator[Path]:
    """Yield the folders of failed tries that were set aside."""
    yield from sorted(path.parent for path in run.glob(f"failed_*_round_*/{FAILED}"))


def _remove_weights(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.suffix not in TEXT:
            path.unlink()
