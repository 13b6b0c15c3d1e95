"""The process between PTL and a program: makes the walls, starts the program, watches, cleans up.

It is trusted and single-threaded, so that it may fork. It reads a launch order on its standard
input, which PTL holds open as long as it lives, and writes one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ptl_plugins.code_execution import harness
from ptl_plugins.code_execution.confinement import become_program
from ptl_plugins.code_execution.launch_order import LaunchOrder, from_line
from ptl_plugins.code_execution.leftovers import end_descendants
from ptl_plugins.code_execution.libc import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_CHILD_SUBREAPER,
    prctl,
    unshare,
)
from ptl_plugins.code_execution.verdict import verdict
from ptl_plugins.code_execution.walls import Containment
from ptl_plugins.code_execution.watch import Watched, watch

BROKEN = b"e"
"""First byte on the result descriptor of a process that could not become the program."""


def main() -> None:
    """Carry out the order on standard input; a failure of the machine is `{"error": ...}`."""
    order = from_line(sys.stdin.buffer.readline())
    source = sys.stdin.buffer.read(order.source_bytes)
    try:
        answer = _judge(_carry_out(order, source), order)
    except OSError as problem:
        answer = {"error": str(problem)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _judge(seen: Watched, order: LaunchOrder) -> dict[str, Any]:
    if seen.said.startswith(BROKEN):
        return {"error": seen.said[1:].decode("utf-8", "replace")}
    if not seen.started:
        return {"error": f"Python did not start within its limits (exit code {seen.exit_code})"}
    return asdict(verdict(seen, nonce=order.nonce, limits=order.limits))


def _carry_out(order: LaunchOrder, source: bytes) -> Watched:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _enter_namespaces(order.containment)
    results, told = os.pipe()
    process = os.fork()
    if process == 0:
        _start(order, source, told)
    os.close(told)
    try:
        return watch(
            process,
            results=results,
            lifeline=sys.stdin.fileno(),
            limits=order.limits,
            folder=None if order.containment.new_root else Path(order.work),
        )
    finally:
        if not order.containment.process_namespace:
            end_descendants()


def _enter_namespaces(walls: Containment) -> None:
    """Enter those that the program shall be born in; the new process namespace begins with it."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER if walls.user_namespace else 0
    flags |= CLONE_NEWNET if walls.network_namespace else 0
    flags |= CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS if walls.process_namespace else 0
    if flags:
        unshare(flags)
    if walls.user_namespace:
        own = Path("/proc/self")
        (own / "setgroups").write_text("deny")
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "gid_map").write_text(f"{group} {group} 1")


def _start(order: LaunchOrder, source: bytes, told: int) -> None:
    """Become the program, or say on the result descriptor why not."""
    try:
        become_program(order, source=_file(source), result=told, nonce=_pipe(order.nonce))
    except OSError as problem:
        os.write(harness.RESULT, BROKEN + str(problem).encode())
    finally:
        os._exit(1)


def _file(content: bytes) -> int:
    descriptor = os.memfd_create("program")
    with os.fdopen(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _pipe(text: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


if __name__ == "__main__":
    main()
