"""Runs a generated program contained and says whether it ran to its end."""

from __future__ import annotations

import os

from ptl_plugins.code_execution.contained_run import run_contained
from ptl_plugins.code_execution.limits import CodeExecutionError, Limits, ProgramResult
from ptl_plugins.code_execution.trials import containment
from ptl_plugins.code_execution.walls import Containment

DEFAULT = Limits()


def run_program(
    source: str, *, limits: Limits = DEFAULT, within: Containment | None = None
) -> ProgramResult:
    """Run a program in a process of its own, contained, and tell whether it ran to its end.

    A program whose last statements are its asserts passes only if all of them hold. It sees the
    standard library, an empty folder, an empty standard input, and no network; what it writes
    is thrown away.

    Args:
        source: the program, with its tests.
        limits: what it may use.
        within: the walls to put up; by default all that this machine gives.

    Raises:
        CodeExecutionError: this machine cannot contain programs, or a wall of `within` fails.
    """
    walls = containment() if within is None else within
    missing = walls.missing(root=os.geteuid() == 0)
    if missing:
        raise CodeExecutionError(f"generated programs are not run: {missing}")
    return run_contained(source, limits=limits, containment=walls)
