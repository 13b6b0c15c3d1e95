"""The command `ptl`."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import typer

from ptl_plugins.disk_errors import disk_error
from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError
from ptl_plugins.file_modes import deny_others_writing

INTERRUPTED_EXIT_CODE = 130
"""Of a process that Ctrl-C ended."""
COMMANDS = {
    "run": "run",
    "plan": "plan",
    "validate": "validate",
    "profile": "profile",
    "prune": "prune",
    "eval": "evaluate",
    "data": "data",
    "ls": "ls",
    "doctor": "doctor",
    "train-llamafactory": "train_llamafactory",
    "quickstart": "quickstart",
    "miniature": "miniature",
    "report": "report",
    "study": "study",
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
    deny_others_writing()
    try:
        app = build_app(sys.argv[1] if len(sys.argv) > 1 else None)
        code = app(prog_name="ptl", standalone_mode=False)
    except PTLError as error:
        code = _tell(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED_EXIT_CODE
    except OSError as error:
        told = _too_long(error) or disk_error(error)
        if told is None:
            raise
        code = _tell(str(told))
    except Exception as error:
        if (told := disk_error(error)) is not None:
            raise SystemExit(_tell(str(told))) from None
        if not hasattr(error, "format_message"):  # what click raises, of which typer has a copy
            raise
        code = _misused(error)
    raise SystemExit(code if isinstance(code, int) else 0)


def _too_long(error: OSError) -> PTLError | None:
    if error.errno != errno.ENAMETOOLONG:
        return None
    return PTLError(f"{error.filename}: the name is too long for a file; give a shorter one")


def _misused(error: Any) -> int:
    """Tell what is wrong with the words of the command line; without any, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "ptl"
    message = " ".join(error.format_message().split()).rstrip(".")
    return _tell(f"{message}; '{path} --help' lists what is allowed")


def _tell(message: str) -> int:
    if os.environ.get("RANK", "0") == "0":  # torchrun's other workers would repeat it
        print(f"ptl: {message}", file=sys.stderr)
    return USER_ERROR_EXIT_CODE


if __name__ == "__main__":
    main()
