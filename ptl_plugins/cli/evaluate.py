"""`ptl eval`: accuracy, loss and speed of a model, beside a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptl_plugins.cli.options import Plugins

if TYPE_CHECKING:
    from ptl_plugins.evaluation.request import EvalRequest, Evaluation


TABLE_COLUMNS = 120
"""Characters that the table needs; a narrower one would break every cell."""


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("eval")(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder or hub name.")],
    tasks: Annotated[
        str,
        typer.Option(
            metavar="T1,T2",
            help="gsm8k_cot, minerva_math, math500, minerva_ocw, mbpp; gsm8k_chat, "
            "minerva_math_chat, math500_chat, minerva_ocw_chat (zero-shot); chain_of_thought "
            "(loss only); speed, speed_paper (with --baseline).",
        ),
    ],
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Data as jsonl; unset, from the hub.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first N questions of each task.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Asked and timed beside it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save as JSON, the questions beside it.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at a time.")] = 8,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; unset, the task's own (256, chat 3000)")
    ] = None,
    backend: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    chat_template: Annotated[str, typer.Option(help="Of chat tasks: own or qwen_math.")] = "own",
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run the programs that mbpp asks for.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what was measured before.")
    ] = False,
    plugins: Plugins = [],  # noqa: B006  # typer copies it
) -> None:
    """Measure a model; what was asked of the same weights before is kept, a kill loses little."""
    from ptl_plugins.evaluation.request import EvalRequest, run_eval
    from ptl_plugins.evaluation.values import Settings
    from ptl_plugins.manager import build_manager, build_registry

    registry = build_registry(build_manager(plugins=plugins))
    request = EvalRequest(
        model=model,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        settings=Settings(
            limit=limit,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            data_dir=data_dir,
            backend=_one_of("--backend", backend, ("hf", "vllm")),  # type: ignore[arg-type]
            chat_template=_one_of(  # type: ignore[arg-type]
                "--chat-template", chat_template, ("own", "qwen_math")
            ),
            allow_code_execution=allow_code_execution,
        ),
        baseline=baseline,
        out=out,
        fresh=fresh,
    )
    with _shown() as progress:
        found = run_eval(
            request, registry, progress, lambda line: typer.echo(f"- {line}", err=True)
        )
    _print(found, request)


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> str:
    from ptl_plugins.errors import PTLError

    if value not in allowed:
        raise PTLError(f"eval: {flag}: '{value}' is not one of {', '.join(allowed)}")
    return value


@contextmanager
def _shown() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows how far a task is, on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    bars = Progress(console=Console(stderr=True), transient=True)
    tasks: dict[str, object] = {}
    with ExitStack() as stack:

        def show(task: str, done: int, number: int) -> None:
            if not tasks:  # before the first question stderr is for errors alone
                stack.enter_context(bars)
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=number)
            bars.update(tasks[task], completed=done)  # type: ignore[arg-type]

        yield show


def _print(found: Evaluation, request: EvalRequest) -> None:
    from rich.console import Console

    from ptl_plugins.evaluation.table import accuracy_table, notes
    from ptl_plugins.speed.table import lines

    if found.compared:
        console = Console()
        Console(width=max(console.width, TABLE_COLUMNS)).print(accuracy_table(found.compared))
    for note in notes(found.compared):
        typer.echo(f"- {note}")
    for name, metrics in found.loss:
        values = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        typer.echo(f"- chain_of_thought: {name}: {values}")
    for report in found.speed:
        for line in lines(report):
            typer.echo(line)
    for task in found.compared:
        typer.echo(f"- {task.task}: every question: {task.answers.questions}")
    if found.files:
        typer.echo(f"saved: {', '.join(map(str, found.files))}")
