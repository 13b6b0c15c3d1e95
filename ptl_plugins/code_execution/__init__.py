"""Contained execution of generated Python programs, such as answers to MBPP; Linux only.

Nothing here runs unless a recipe or the command line allows it; what a machine can contain is in
`containment().lines()`::

    result = run_program("assert 1 + 1 == 2")
    assert result.passed
"""

from ptl_plugins.code_execution.limits import CodeExecutionError, Limits, ProgramResult
from ptl_plugins.code_execution.program import run_program
from ptl_plugins.code_execution.trials import containment
from ptl_plugins.code_execution.walls import Containment

__all__ = [
    "CodeExecutionError",
    "Containment",
    "Limits",
    "ProgramResult",
    "containment",
    "run_program",
]
