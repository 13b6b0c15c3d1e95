"""What a process does to itself before it becomes the program."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from pathlib import Path

from ptl_plugins.code_execution import harness
from ptl_plugins.code_execution.call_filter import install_filter
from ptl_plugins.code_execution.file_rules import allow_files
from ptl_plugins.code_execution.launch_order import LaunchOrder
from ptl_plugins.code_execution.libc import (
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    prctl,
)
from ptl_plugins.code_execution.limits import Limits
from ptl_plugins.code_execution.new_root import WORK, enter_new_root

ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All that the program's environment holds: sets of strings keep one order, scores do not waver."""


def become_program(order: LaunchOrder, *, source: int, result: int, nonce: int) -> None:
    """Give up all that the order withholds, then become Python with the harness; never returns.

    Args:
        order: what to run, within which limits and walls.
        source: descriptor to read the program from.
        result: descriptor that the harness reports on.
        nonce: descriptor to read the proof from.

    The descriptors are arranged first: a failure can be told on `harness.RESULT`.

    Raises:
        OSError: a wall could not be put up; nothing of the program has run.
    """
    _arrange_descriptors(source, result, nonce)
    os.setsid()
    _be_first_to_go()
    if order.containment.new_root:
        _change_root(order)
    else:
        os.chdir(order.work)
    set_limits(order.limits)
    if order.containment.own_user:
        _change_user(order.user)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if order.containment.file_rules:
        allow_files(Path.cwd(), python=Path(order.python), prefix=Path(order.prefix))
    if order.containment.call_filter:
        install_filter()
    os.execve(order.python, python_command(order.python, order.harness), ENVIRONMENT)


def python_command(python: str, text: str) -> list[str]:
    """Return the command of an interpreter that sees the standard library and nothing else."""
    return [python, "-P", "-s", "-S", "-B", "-c", text]


def set_limits(limits: Limits) -> None:
    """Bound the resources of this process and of what it starts."""
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: limits.address_space,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for name, wanted in bounds.items():
        value = _at_most(wanted, resource.getrlimit(name)[1])
        resource.setrlimit(name, (value, value))


def _at_most(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _be_first_to_go() -> None:
    """Ask the kernel to end the program, not PTL, if the machine runs out of memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _change_root(order: LaunchOrder) -> None:
    enter_new_root(
        Path(order.work),
        python=Path(order.python),
        prefix=Path(order.prefix),
        limits=order.limits,
        user=order.user,
    )
    os.chdir(WORK)


def _arrange_descriptors(source: int, result: int, nonce: int) -> None:
    """Leave the program /dev/null and the harness's three, and nothing else."""
    null = os.open("/dev/null", os.O_RDWR)
    places = {0: null, 1: null, 2: null}
    places |= {harness.SOURCE: source, harness.RESULT: result, harness.NONCE: nonce}
    moved = {place: fcntl.fcntl(given, fcntl.F_DUPFD, 10) for place, given in places.items()}
    for place, given in moved.items():
        os.dup2(given, place)
    os.closerange(max(places) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _change_user(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
