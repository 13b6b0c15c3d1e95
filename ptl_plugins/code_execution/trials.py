"""Finds out what this machine can contain, by trying each wall on a small program."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from pathlib import Path

from ptl_plugins.code_execution.contained_run import run_contained
from ptl_plugins.code_execution.limits import CodeExecutionError, Limits
from ptl_plugins.code_execution.walls import Containment

TRIALS = {
    "user_namespace": "import os; assert os.readlink('/proc/self/ns/user') != {user!r}",
    "network_namespace": "import os; assert os.readlink('/proc/self/ns/net') != {net!r}",
    "process_namespace": "import os; assert os.getpid() == 1",
    "file_rules": """
import os
try:
    os.listdir('.')
    os.listdir('/')
except PermissionError:
    pass
else:
    raise AssertionError
""",
    "new_root": "import os; assert not os.path.exists('/proc')",
    "own_user": "import os; assert os.getuid() == os.geteuid() != 0",
    "call_filter": """
import socket
try:
    socket.socketpair()
    socket.socket()
except PermissionError:
    pass
else:
    raise AssertionError
""",
}
"""Programs that pass only behind the wall, in the order in which the walls are put up."""
FOR_USERS, FOR_ROOT = "user_namespace", "own_user"
PATIENT = Limits(wall_seconds=20.0, cpu_seconds=20)


@functools.cache
def containment() -> Containment:
    """Return the walls that this machine gives; tried once per process, in about half a second.

    Raises:
        CodeExecutionError: the system is not Linux, or programs cannot be started at all.
    """
    if sys.platform != "linux":
        raise CodeExecutionError("contained execution of programs needs Linux; leave the task out")
    unneeded = FOR_USERS if os.geteuid() == 0 else FOR_ROOT
    walls = Containment()
    run_contained("pass", limits=PATIENT, containment=walls)  # a broken start is no missing wall
    for name, trial in TRIALS.items():
        if name != unneeded:
            walls = _with_wall(walls, name, trial)
    return walls


def _with_wall(walls: Containment, name: str, trial: str) -> Containment:
    """Return the walls with one more, if that can be put up and holds."""
    more = replace(walls, **{name: True})
    spaces = {kind: str(Path("/proc/self/ns", kind).readlink()) for kind in ("user", "net")}
    try:
        holds = run_contained(trial.format(**spaces), limits=PATIENT, containment=more).passed
    except CodeExecutionError:
        holds = False
    return more if holds else walls
