"""What `ptl run` would do, as text: every step, file and command in order; nothing is done.

The stages' files and commands are those of the same jobs that a real run starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ptl_plugins.amounts import show_amount
from ptl_plugins.divergence import current_failure
from ptl_plugins.geometry import Geometry
from ptl_plugins.kept_files import PRUNED
from ptl_plugins.measuring import is_due
from ptl_plugins.remote_code import remote_code_notes
from ptl_plugins.run import PreparedRun
from ptl_plugins.run_folder import CORPUS, EVENTS, MANIFEST, MODEL, PLAN, RECORD, SCORES
from ptl_plugins.run_lock import LOCK_FILE, OWNER_FILE
from ptl_plugins.schedule import PlannedRound
from ptl_plugins.selectors import units
from ptl_plugins.slicegpt.growth import growth_notes, hidden_of_original
from ptl_plugins.stage_run import DONE, has_ended, stage_folder, stage_model
from ptl_plugins.stage_types import Command, StageJob
from ptl_plugins.steps import moments
from ptl_plugins.types import RoundContext, RoundSpec

SHOWN_BYTES = 4096
"""Larger files are counted, not shown; so are texts and programs of any size."""
COUNTED = (".jsonl", ".txt", ".csv", ".py")
SETTINGS = (".yaml", ".yml")
TEXT = "    | "
"""Stands before each line of a file that is shown."""
COMMAND = "    $ "
"""Stands before each line of a command."""


def dry_run_lines(ready: PreparedRun) -> Iterator[str]:
    """Yield what a run of the prepared recipe would do, line by line.

    Finished rounds, and what an earlier try left of the first one that is not, are kept.
    """
    start, rounds = ready.start, ready.plan.rounds
    finished = start.run.num_finished()
    yield from _head(ready, finished)
    model = start.run.last_model() or ready.original
    if not start.run.records():
        yield "round 0: the original"
        yield from _last_lines(start, model)
    notes = growth_notes(ready.plan.original, rounds)
    for planned in rounds[finished:]:
        ctx = start.for_round(planned.spec)
        yield ""
        yield from _round(ctx, planned, model, notes.get(planned.spec.index))
        model = ctx.folder / MODEL
    yield ""
    yield f"{model}: the last round's model"
    yield "dry run: nothing was written or started"


def _head(ready: PreparedRun, finished: int) -> Iterator[str]:
    recipe, run, parts = ready.start.recipe, ready.start.run, ready.corpus.parts
    assert recipe.data is not None
    yield _line("recipe", recipe.source)
    yield _line(
        "model", f"{recipe.model} ({ready.plan.family.name}): {_shape(ready.plan.original)}"
    )
    yield _line("data", f"{recipe.data.path}: {_parts(parts)}")
    yield from (_line("remote code", note) for note in remote_code_notes(recipe))
    state = f"goes on; rounds finished and kept: {finished} of {len(recipe.rounds)}"
    yield _line("run folder", f"{run.path}: {state if run.records() else 'starts anew'}")
    if failed := current_failure(run):
        yield _line("failed", f"round {failed.round}: {failed.reason}")
    if not run.records():
        names = (MANIFEST, CORPUS, EVENTS, LOCK_FILE, OWNER_FILE)
        yield from (_line("write", run.path / name) for name in names)
    yield ""


def _parts(parts: Sequence[Sequence[str]]) -> str:
    sizes = [len(part) for part in parts]
    if len(set(sizes)) == 1:
        return f"{sizes[0]} texts in each of {len(parts)} parts"
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]} texts in {len(parts)} parts"


def _round(
    ctx: RoundContext, planned: PlannedRound, model: Path, note: str | None
) -> Iterator[str]:
    shape = _shape(planned.geometry) if planned.geometry else "a shape that the scores decide"
    yield f"round {ctx.spec.index} of {len(ctx.recipe.rounds)}: {_cuts(ctx.spec)} -> {shape}"
    if note:
        yield _line("note", note)
    if ctx.spec.cuts:
        yield from _choice(ctx, model)
        pruned = ctx.folder / (PRUNED if ctx.stages else MODEL)
        yield from _cut(ctx, model, pruned)
        model = pruned
        if ctx.recipe.evaluation.before_recovery:
            yield from _evaluation(ctx, model)
    for index in range(len(ctx.stages)):
        yield from _stage(ctx, index, model)
        model = stage_model(ctx, index)
    yield from _last_lines(ctx, model)
    yield from _deleted(ctx)


def _choice(ctx: RoundContext, model: Path) -> Iterator[str]:
    """Tell of profiling and selection, or of the plan that an earlier try left."""
    if (ctx.folder / PLAN).exists():
        yield _line("kept", ctx.folder / PLAN)
        return
    sequences = ctx.corpus.calibration(ctx.spec.index)
    tokens = sum(map(len, sequences))
    yield _line("profile", f"{model}: {len(sequences)} calibration sequences, {tokens} tokens")
    if (protect := ctx.recipe.protect) is not None:
        yield _line("profile", f"{model}: {protect.num_sequences} sequences of {protect.data}")
    yield _line("write", ctx.folder / SCORES)
    yield _line("write", ctx.folder / PLAN)


def _cut(ctx: RoundContext, model: Path, pruned: Path) -> Iterator[str]:
    """Tell of the pruned checkpoint, and of the second moments that refit it."""
    if pruned.exists():
        yield _line("kept", pruned)
        return
    neurons_go = any(cut.unit == "neuron" for cut in ctx.spec.cuts)
    refitted = neurons_go and ctx.recipe.refit == "ridge"
    if refitted:
        yield _line("write", moments(ctx).path)
    yield _line("prune", f"{model} -> {pruned}")
    if refitted:
        yield _line("delete", moments(ctx).path)


def _stage(ctx: RoundContext, index: int, model: Path) -> Iterator[str]:
    stage, folder = ctx.stages[index], stage_folder(ctx, index)
    yield _line(f"stage {index}", f"{stage.backend}, on {model}")
    if (folder / DONE).exists():
        yield _line("kept", f"{stage_model(ctx, index)}, which an earlier try finished")
        return
    job = ctx.registry.backends.get(stage.backend).job(ctx, stage, model, folder)
    if has_ended(job):
        yield _line("kept", f"{job.result}, which an earlier try's program made")
    else:
        yield from _program(ctx, job, folder)
    yield _line("take", f"{job.result} -> {stage_model(ctx, index)}")
    yield _line("write", folder / DONE)
    if not ctx.recipe.keep.intermediate:
        yield _line("delete", job.result)


def _program(ctx: RoundContext, job: StageJob, folder: Path) -> Iterator[str]:
    if folder.exists():
        yield _line("delete", f"{folder}, which an earlier try left")
    yield from _files(job)
    yield from _command(ctx, job.command)


def _files(job: StageJob) -> Iterator[str]:
    for path, text in job.files.items():
        lines = text.removesuffix("\n").split("\n") if text else []
        size = len(text.encode())
        yield _line("write", f"{path}: {len(lines)} lines, {size} bytes")
        small = size < SHOWN_BYTES and path.suffix not in COUNTED
        if small or path.suffix in SETTINGS:
            yield from _block(TEXT, lines)


def _command(ctx: RoundContext, command: Command) -> Iterator[str]:
    launch = command.launch
    limit = f", stopped after {launch.timeout:g} s" if launch.timeout else ""
    yield _line("run", f"{launch.launcher}, in {command.folder}{limit}:")
    preview = ctx.registry.launchers.get(launch.launcher).preview(command)
    yield from _block(COMMAND, preview.removesuffix("\n").split("\n"))
    yield _line("log", command.log)


def _last_lines(ctx: RoundContext, model: Path) -> Iterator[str]:
    """Tell of the evaluation that ends a round, when it is due, and of the record."""
    if is_due(ctx):
        yield from _evaluation(ctx, model)
    yield _line("write", ctx.folder / RECORD)


def _evaluation(ctx: RoundContext, model: Path) -> Iterator[str]:
    for task in ctx.recipe.evaluation.tasks:
        settings = ", ".join(f"{key}: {value}" for key, value in task.settings.items())
        yield _line("evaluate", f"{model}: {task.evaluator}{f' ({settings})' if settings else ''}")


def _deleted(ctx: RoundContext) -> Iterator[str]:
    """Tell what goes once the round is recorded, beside what its stages saved."""
    keep, stages = ctx.recipe.keep, ctx.stages
    if stages and not keep.intermediate:
        between = [stage_model(ctx, index) for index in range(len(stages) - 1)]
        cut = [ctx.folder / PRUNED] if ctx.spec.cuts else []
        yield from (_line("delete", path) for path in [*cut, *between])
    if keep.rounds == "last" and ctx.spec.index > 1:
        yield _line("delete", ctx.run.round_folder(ctx.spec.index - 1) / MODEL)


def _cuts(spec: RoundSpec) -> str:
    cuts = (
        f"{units(c.unit)} by {c.criterion}, {c.selector} {show_amount(c.amount)}" for c in spec.cuts
    )
    return "; ".join(cuts) or "recovery only"


def _shape(sizes: Geometry) -> str:
    number = f"{sizes.num_parameters / 1e6:,.1f} M parameters"
    sliced = hidden_of_original(sizes)
    hidden = f", hidden {sliced}" if sliced else ""
    return f"{sizes.num_layers} layers, width {sizes.width}{hidden}, {number}"


def _line(what: str, value: object) -> str:
    return f"  {what:<10} {value}"


def _block(mark: str, lines: Sequence[str]) -> Iterable[str]:
    return (mark + line for line in lines)
