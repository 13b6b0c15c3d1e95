"""Judges answers to mathematical problems in a worker process that may hang, grow or die.

Two marks, each 0 or 1, as lm-eval's task `minerva_math` gives them: `math_verify` (math-verify
finds the response equal to the worked solution) and `exact_match` (the answer in Minerva's fixed
sentence equals the solution's last box, both normalized). `exact_match` compares formulas by
sympy where the antlr4 runtime is 4.11 or `PTL_ANTLR_4_11` names a folder that holds it:

    pip install --no-deps --target DIR antlr4-python3-runtime==4.11.0

Without it only equal normalized texts match, `MathJudge.exact_match_rule` is "strings", and answers
written in another way (`dfrac`, 2/4 for 1/2) are missed: the mark is then at most lm-eval's.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation.upstream_tasks import INSTALL, task_source

ANTLR_VARIABLE = "PTL_ANTLR_4_11"
"""Environment variable that names a folder with antlr4-python3-runtime 4.11."""
START_SECONDS = 120.0
"""For the worker to import its libraries; no part of an answer's time limit."""
ORPHAN_SECONDS = 10.0
"""CPU time beyond the limit, after which a worker whose parent was killed ends itself."""
WORKER_BYTES = 4 << 30
"""Address space of the worker."""
LONGEST_REPLY = 1 << 16
LONGEST_DETAIL = 300
MOST_FAILED_STARTS = 3

WORKER = Path(__file__).with_name("math_judge_worker.py")

Status = Literal["judged", "timed_out", "unreadable_gold", "failed"]
GoldSource = Literal["solution", "answer"]

_MARKS = ("exact_match", "math_verify")
_PROBLEMS: tuple[Status, ...] = ("failed", "timed_out", "unreadable_gold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge found; a mark that could not be judged is 0, as it is in lm-eval."""

    math_verify: int
    exact_match: int
    status: Status
    """The worst of both marks: `failed`, `timed_out`, `unreadable_gold`, `judged`."""
    gold: GoldSource | None
    """What the response was compared with; None where it was not: none readable, or no reply."""
    detail: str
    """One line; empty when judged."""

    @property
    def marks(self) -> dict[str, int]:
        """Both marks by lm-eval's names."""
        return {"math_verify": self.math_verify, "exact_match": self.exact_match}


class MathJudge:
    """Holds one worker, which is killed and replaced when an answer takes too long.

    To be used as a context manager, by one thread at a time. The worker ends when its parent does.
    """

    def __init__(
        self,
        *,
        time_limit: float = 10.0,
        antlr: Path | None = None,
        memory_bytes: int = WORKER_BYTES,
    ) -> None:
        """Start nothing yet.

        Args:
            time_limit: Wall seconds for each of an answer's two marks. lm-eval's own limits,
                5 seconds for each parsing and each comparison, are inside of it.
            antlr: Folder with antlr4-python3-runtime 4.11, instead of what `PTL_ANTLR_4_11` names.
            memory_bytes: Address space of the worker.
        """
        if time_limit <= 0:
            raise PTLError(f"time limit of an answer is {time_limit} s; it has to be above 0")
        named = os.environ.get(ANTLR_VARIABLE)
        self._time_limit = time_limit
        self._antlr = antlr or (Path(named) if named else None)
        self._memory_bytes = memory_bytes
        self._worker: subprocess.Popen[bytes] | None = None
        self._ready: dict[str, Any] = {}
        self._failed_starts = 0

    def __enter__(self) -> MathJudge:
        """Start the worker.

        Raises:
            PTLError: lm-eval or math-verify is missing, the folder holds no antlr4 4.11, or the
                worker does not start.
        """
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the worker."""
        self._end()

    @property
    def exact_match_rule(self) -> Literal["sympy", "strings"]:
        """How `exact_match` compares; known once the worker was started."""
        rule: Literal["sympy", "strings"] = self._ready["exact_match_rule"]
        return rule

    @property
    def versions(self) -> dict[str, str | None]:
        """Versions of the packages that judge; known once the worker was started."""
        return dict(self._ready["versions"])

    def judge(self, response: str, *, solution: str | None, answer: str | None = None) -> Verdict:
        """Judge one response; nothing it holds raises.

        Args:
            response: What the model wrote, without the prompt.
            solution: The worked solution; its last box is the gold answer.
            answer: The plain answer, for a solution without a box that can be read.
        """
        question = {"response": response, "solution": solution, "answer": answer}
        replies = {mark: self._ask({**question, "mark": mark}) for mark in _MARKS}
        problems = [(s, reply[s]) for s in _PROBLEMS for reply in replies.values() if reply.get(s)]
        detail = " ".join("; ".join(dict.fromkeys(text for _, text in problems)).split())
        return Verdict(
            **{mark: reply.get("value", 0) for mark, reply in replies.items()},
            status=problems[0][0] if problems else "judged",
            gold=next((reply["gold"] for reply in replies.values() if reply.get("gold")), None),
            detail=detail[:LONGEST_DETAIL],
        )

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply to a question; or how it failed or timed out."""
        if self._worker is None or self._worker.poll() is not None:
            self._end()
            if self._failed_starts >= MOST_FAILED_STARTS:
                return {"failed": f"the judge did not start {MOST_FAILED_STARTS} times in a row"}
            try:
                self._start()
            except (PTLError, OSError) as error:
                self._failed_starts += 1
                return {"failed": str(error)}
        seconds = self._time_limit
        return self._exchange({**question, "seconds": seconds + ORPHAN_SECONDS}, seconds)

    def _start(self) -> None:
        source = task_source("minerva_math")
        self._worker = subprocess.Popen(
            # -P: this file's neighbours must not hide modules of the same name
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        antlr = str(self._antlr.resolve()) if self._antlr else None
        setup = {"source": source, "antlr": antlr, "memory": self._memory_bytes}
        ready = self._exchange(setup, START_SECONDS)
        if "versions" not in ready:
            self._end()
            raise PTLError(" ".join(_why_not(ready, self._antlr).split()))
        self._ready, self._failed_starts = ready, 0

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        worker, line = self._worker, None
        assert worker is not None
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(message).encode() + b"\n")
            worker.stdin.flush()
            line = _next_line(worker, seconds)
        except BrokenPipeError:
            line = b""
        finally:
            # Also when this process is interrupted: the next question would get this reply.
            if not line or not line.endswith(b"\n"):
                self._end()
        if line is None:
            return {"timed_out": f"no verdict in {seconds:g} s"}
        if not line.endswith(b"\n"):
            return {"failed": f"the judge's process ended (exit code {worker.returncode})"}
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.communicate()  # closes its pipes and takes its exit code: no zombie


def _next_line(worker: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The worker's next line; None if time is up, without its end if it ended or writes on."""
    assert worker.stdout is not None
    line, deadline = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n") and len(line) < LONGEST_REPLY:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(worker.stdout.fileno(), LONGEST_REPLY)
            if not piece:
                break
            line += piece
    return line


def _why_not(ready: Mapping[str, Any], antlr: Path | None) -> str:
    """Why the worker did not start, in one line with what to do."""
    if "missing" in ready:
        return f"answers cannot be judged ({ready['missing']}): {INSTALL}"
    if "antlr" in ready:
        return (
            f"{ANTLR_VARIABLE}={antlr}: holds no antlr4 runtime 4.11 (found: {ready['antlr']});"
            f" pip install --no-deps --target {antlr} antlr4-python3-runtime==4.11.0"
        )
    reason = ready.get("failed") or ready.get("timed_out")
    return f"the judge of answers did not start ({reason}): run {sys.executable} -P {WORKER}"
