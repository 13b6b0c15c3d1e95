"""The command `ptl`."""

from __future__ import annotations

import sys

import typer

from ptl_plugins.cli import (
    doctor,
    ls,
    plan,
    profile,
    prune,
    quickstart,
    run,
    train_llamafactory,
    validate,
)
from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError

app = typer.Typer(
    name="ptl",
    help="Gradual pruning of reasoning models inside the trainers people already use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (run, plan, validate, profile, prune, ls, doctor, train_llamafactory, quickstart):
    command.add_to(app)


def main() -> None:
    """Run the command line: exit 0 done, 2 the user's mistake in one line, 1 ours."""
    try:
        app()
    except PTLError as error:
        print(f"ptl: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT_CODE) from None


if __name__ == "__main__":
    main()
