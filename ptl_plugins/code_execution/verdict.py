"""From what the watcher saw to what became of the program."""

from __future__ import annotations

import signal

from ptl_plugins.code_execution.harness import FAILED, PASSED, STARTED
from ptl_plugins.code_execution.limits import MAX_DETAIL, Limits, Outcome, ProgramResult
from ptl_plugins.code_execution.watch import Watched


def verdict(seen: Watched, *, nonce: str, limits: Limits) -> ProgramResult:
    """Judge a program that was started: only the nonce, said once at the end, is a pass."""
    ran_to_end = STARTED + PASSED + nonce.encode()
    passed = not seen.stop and seen.said == ran_to_end and seen.exit_code == 0
    if passed:
        return result("passed", "", seen.seconds)
    return result(*_failure(seen, limits), seen.seconds)


def result(outcome: Outcome, detail: str, seconds: float = 0.0) -> ProgramResult:
    """Return a result whose detail is one bounded line of printable ASCII."""
    line = "".join(sign if " " <= sign <= "~" else " " for sign in detail)
    line = " ".join(line.split())[:MAX_DETAIL]
    return ProgramResult(
        passed=outcome == "passed", outcome=outcome, detail=line, seconds=round(seconds, 4)
    )


def _failure(seen: Watched, limits: Limits) -> tuple[Outcome, str]:
    told = seen.said.removeprefix(STARTED)
    if seen.stop == "time":
        return "timed_out", f"still running after {limits.wall_seconds:g} s"
    if seen.stop == "disk":
        return "limit", f"disk: more than {limits.disk} bytes"
    if seen.stop == "talk":
        return "failed", "wrote into the pipe of its result"
    # the kernel's two counts of CPU time differ by some ticks
    if seen.exit_code == -signal.SIGKILL and seen.cpu_seconds >= limits.cpu_seconds / 2:
        return "limit", f"CPU time: more than {limits.cpu_seconds} s"
    if told.startswith(FAILED + b"MemoryError"):
        return "limit", f"memory: more than {limits.address_space} bytes"
    if told.startswith(FAILED):
        return "failed", told.removeprefix(FAILED).decode("ascii", "replace")
    return "failed", _early_end(seen.exit_code)


def _early_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"left before its end, exit code {exit_code}"
    return f"ended by signal {-exit_code}"
