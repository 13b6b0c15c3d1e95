"""Runs one program to its end and says so; this text is given to a fresh interpreter with `-c`.

It reads the source from one descriptor and, only when the program has run to its end, the nonce
from another. The nonce on the result descriptor is the proof: an exit code is none, for
`os._exit(0)` has the same. What is needed afterwards is held in local names, since the program may
replace what modules hold. The program is a module that is not `__main__`, as in HF's code_eval.
"""

import os
import sys
from types import ModuleType, TracebackType

SOURCE, RESULT, NONCE = 3, 4, 5
STARTED, PASSED, FAILED = b"s", b"p", b"f"


def read_all(descriptor: int) -> bytes:
    """Read to the end and close."""
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def describe(problem: BaseException, line: TracebackType | None) -> bytes:
    """Name the exception, the program's line, and the beginning of its message."""
    where = f" at line {line.tb_lineno}" if line else ""
    try:
        said = str(problem)[:160]
    except BaseException:
        said = ""
    text = f"{type(problem).__name__}{where}{': ' if said else ''}{said}"
    return text.encode("ascii", "backslashreplace")


def run() -> None:
    """Run the program, report, and leave without any clean-up that it may have prepared."""
    read, write, leave, own, me = os.read, os.write, os._exit, os.getpid, os.getpid()
    name, passed, failed, explain = "program", PASSED, FAILED, describe
    source = read_all(SOURCE)
    write(RESULT, STARTED)
    module = sys.modules[name] = ModuleType(name)
    try:
        exec(compile(source.decode(), "<program>", "exec"), module.__dict__)
    except BaseException as problem:
        trace = problem.__traceback__
        if own() == me:
            write(4, failed + explain(problem, trace.tb_next if trace else None))
        leave(1)
    if own() != me:  # a child that the program forked does not speak for it
        leave(1)
    write(4, passed + read(5, 64))
    leave(0)


if __name__ == "__main__":
    run()
