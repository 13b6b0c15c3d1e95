"""What a program may use, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ptl_plugins.errors import PTLError

Outcome = Literal["passed", "failed", "timed_out", "limit", "refused"]
"""`failed`: an exception, or an end before the last statement. `limit`: memory, CPU time, disk.
`refused`: never started, because the source is too long."""

MIB = 2**20
MAX_DETAIL = 200
"""Characters of `ProgramResult.detail`."""


class CodeExecutionError(PTLError):
    """This machine cannot run programs contained; never the fault of a program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use, its child processes included where it says so.

    Raises:
        CodeExecutionError: a limit is not above zero.
    """

    wall_seconds: float = 3.0
    """From the first statement on; the start of the interpreter does not count."""
    cpu_seconds: int = 4
    """Of each process, the start of the interpreter counted."""
    address_space: int = 1024 * MIB
    """Bytes of each process."""
    file_size: int = 16 * MIB
    """Bytes of each file."""
    disk: int = 32 * MIB
    """Bytes of all files together; also bounds their number, one file per 4 KiB."""
    open_files: int = 32
    """Of each process."""
    processes: int = 4
    """Processes and threads at one time, the program's own counted."""
    source_bytes: int = MIB
    """Length of the program; a longer one is refused."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise CodeExecutionError(
                    f"limits: {field.name} must be above 0, is {getattr(self, field.name)}"
                )

    @property
    def num_files(self) -> int:
        """How many files and folders all together may exist."""
        return max(16, self.disk // 4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramResult:
    """What became of one program."""

    passed: bool
    """Whether it ran to its end."""
    outcome: Outcome
    detail: str
    """One short line of ASCII; empty when passed. Its text comes from the program: do not trust."""
    seconds: float
    """Wall time from the first statement on; 0 if it never started."""
