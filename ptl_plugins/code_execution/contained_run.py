"""Starts the launcher for one program and takes its answer."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ptl_plugins.code_execution import harness
from ptl_plugins.code_execution.confinement import ENVIRONMENT, python_command
from ptl_plugins.code_execution.launch_order import LaunchOrder, to_line
from ptl_plugins.code_execution.limits import CodeExecutionError, Limits, ProgramResult
from ptl_plugins.code_execution.verdict import result
from ptl_plugins.code_execution.walls import Containment
from ptl_plugins.code_execution.watch import START_SECONDS

CLEAN_UP_SECONDS = 20.0
"""Patience for the launcher, beyond the start and the program's own time."""
FIRST_FREE_USER = 2_000_000_000
"""Above all ranges that systems hand out; the number of a thread is added."""
NOBODY = 65534
MAX_ANSWER = 65536


def run_contained(source: str, *, limits: Limits, containment: Containment) -> ProgramResult:
    """Run `source` within the given walls, whether or not they suffice.

    Raises:
        CodeExecutionError: the machine could not put the walls up.
    """
    try:
        program = source.encode()
    except UnicodeEncodeError:
        return result("failed", "the source is no valid text: it holds surrogates")
    if len(program) > limits.source_bytes:
        return result("refused", f"source of {len(program)} bytes, {limits.source_bytes} allowed")
    user = program_user() if containment.own_user else os.geteuid()
    with _work_folder(user, containment) as work:
        answer = _launch(program, _order(program, limits, containment, work, user))
    if "error" in answer:
        raise CodeExecutionError(f"a program could not be run contained: {answer['error']}")
    return ProgramResult(**answer)


def _order(
    program: bytes, limits: Limits, containment: Containment, work: Path, user: int
) -> LaunchOrder:
    return LaunchOrder(
        source_bytes=len(program),
        limits=limits,
        containment=containment,
        nonce=secrets.token_hex(16),
        harness=Path(harness.__file__).read_text(),
        python=str(base_python()),
        prefix=str(Path(sys.base_prefix).resolve()),
        work=str(work),
        user=user,
    )


def base_python() -> Path:
    """Return the interpreter that this one's environment was made from, links resolved."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def program_user() -> int:
    """Return a user number of this thread alone, or nobody's where few numbers are mapped.

    A thread runs one program at a time: programs share no limit of processes and no user.
    """
    wanted = FIRST_FREE_USER + threading.get_native_id()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted < first + count:
            return wanted
    return NOBODY


@contextlib.contextmanager
def _work_folder(user: int, containment: Containment) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ptl-program-")).resolve()
    try:
        if containment.own_user and not containment.new_root:
            os.chown(folder, user, user)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove what a program left: too deep for Python's own way, or without permissions."""
    try:
        folder.rmdir()
    except OSError:
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], check=False, capture_output=True)


def _launch(program: bytes, order: LaunchOrder) -> dict[str, Any]:
    """Start the launcher, give it the order, and return its answer."""
    process = subprocess.Popen(
        python_command(order.python, _launcher_text()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    with contextlib.suppress(BrokenPipeError), process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(to_line(order) + program)
        process.stdin.flush()
        patience = START_SECONDS + order.limits.wall_seconds + CLEAN_UP_SECONDS
        text_back = _read(process.stdout, time.monotonic() + patience)
        process.kill()
        return _answer(text_back)
    return {"error": "the launcher ended before it had read its order"}


def _launcher_text() -> str:
    """Return the launcher's program.

    It takes modules of this package without what the packages import of themselves: the bare
    interpreter has no pluggy, and every program would wait for it.
    """
    here = Path(__file__).parent
    packages = {__package__: str(here), __package__.partition(".")[0]: str(here.parent)}
    return (
        "import sys, types\n"
        f"for name, folder in {packages!r}.items():\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [folder]\n"
        f"from {__package__}.launcher import main\n"
        "main()\n"
    )


def _read(stream: IO[bytes], deadline: float) -> bytes:
    """Read to the end of the stream, but not past the deadline."""
    answer = b""
    while (left := deadline - time.monotonic()) > 0 and len(answer) < MAX_ANSWER:
        if select.select([stream], [], [], left)[0]:
            heard = os.read(stream.fileno(), MAX_ANSWER)
            if not heard:
                break
            answer += heard
    return answer


def _answer(text: bytes) -> dict[str, Any]:
    last = (text.decode("utf-8", "replace").strip().splitlines() or ["no answer"])[-1]
    try:
        answer: dict[str, Any] = json.loads(last)
    except ValueError:
        return {"error": f"the launcher broke: {last[:200]}"}
    return answer
