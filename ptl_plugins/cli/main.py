"""The command `ptl`."""

from __future__ import annotations

import importlib
import os
import sys

import typer

from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError

COMMANDS = {
    "run": "run",
    "plan": "plan",
    "validate": "validate",
    "profile": "profile",
    "prune": "prune",
    "ls": "ls",
    "doctor": "doctor",
    "train-llamafactory": "train_llamafactory",
    "quickstart": "quickstart",
    "report": "report",
}
"""Subcommand -> its module in this package, in the order of the help."""


def build_app(command: str | None = None) -> typer.Typer:
    """Return the command line with one subcommand, or with all of them.

    Only what is asked for is imported and built: that is most of a short command's time.
    """
    app = typer.Typer(
        name="ptl",
        help="Gradual pruning of reasoning models inside the trainers people already use.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_group)
    for name in [command] if command in COMMANDS else COMMANDS:
        importlib.import_module(f"ptl_plugins.cli.{COMMANDS[str(name)]}").add_to(app)
    return app


def _group() -> None:
    """Gradual pruning of reasoning models inside the trainers people already use."""


def main() -> None:
    """Run the command line: exit 0 done, 2 the user's mistake in one line, 1 ours."""
    try:
        build_app(sys.argv[1] if len(sys.argv) > 1 else None)()
    except PTLError as error:
        if os.environ.get("RANK", "0") == "0":  # torchrun's other workers would repeat it
            print(f"ptl: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT_CODE) from None


if __name__ == "__main__":
    main()
