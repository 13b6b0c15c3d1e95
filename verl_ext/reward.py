r"""The reward of GRPO on questions with a checkable answer: right format and right result.

One file for both frameworks, which load it by path, often in an environment without PTL. It needs
the standard library (Python 3.9 or later) and math-verify 0.8 or later, or else mathruler, which
EasyR1 brings. verl: `reward.custom_reward_function.{path,name}` with the name `score_answer`;
EasyR1: `reward_function: <path>:score_answers` (v0.3.2 also wants `reward_type: batch`).

    reward = accuracy_weight * accuracy + format_weight * format      (each mark is 0 or 1)

Format: the response is `<think>`, some reasoning, `</think>`, then text with a `\boxed{}` that is
not empty; each tag once. A chat template that writes `<think>` itself leaves it out of the
response, which then never has the format: use another template.
Accuracy: the last balanced `\boxed{}` after `</think>` (anywhere, if no thinking was closed)
equals the ground truth.

sympy can run for hours on ten characters, and no thread can be interrupted, so that the comparison
is done by a worker process (this file run with `--serve`), killed when the time limit passes; such
an answer is wrong. No answer raises. Where neither library can be imported only equal texts are
right, and a line on stderr says so: `python reward.py --check` tells beforehand (exit code 1).
"""

from __future__ import annotations

import json
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

REWARD_NAME = "think_boxed"
REWARD_TYPE = "batch"

OPEN, CLOSE = "<think>", "</think>"
LONGEST = 2000
"""Characters of a boxed answer; a longer one is wrong."""
START_SECONDS = 120.0
"""For the worker to import its library; not part of an answer's time limit."""
ORPHAN_SECONDS = 10
"""After the time limit, when a worker whose parent was killed ends itself."""
WORKER_BYTES = 4 << 30
"""Address space of the worker: a tower of powers must not take the machine's memory."""
MOST_FAILED_STARTS = 3
MOST_KNOWN = 8192
"""Verdicts that are kept: the samples of one prompt repeat each other."""

Equal = Callable[[str, str], bool]

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NO_MEANING = re.compile(r"(\\\\)|\\(?:left|right)(?![A-Za-z.])|\\[!,;:]")
_BIG_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_WORDS = re.compile(r"[A-Za-z][a-z]{2,}(?: [A-Za-z][a-z]+)*")
_WRAPS = (
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    *((f"\\{font}{{", "}") for font in ("text", "textbf", "mathrm", "mbox")),
)


def score_answer(
    data_source: Any,
    solution_str: Any,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
    time_limit: float = 5.0,
    reward_router_address: Any = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, float]:
    """The reward of one response, as verl calls it, from any thread.

    Args:
        data_source: Unused, like `extra_info`, `reward_router_address`, `reward_model_tokenizer`.
        solution_str: The response, without the prompt.
        ground_truth: Text, perhaps with `$` or a box of its own, or a number; None: none is right.
        extra_info: Unused.
        accuracy_weight: Reward of a right answer.
        format_weight: Reward of the format.
        time_limit: Seconds for the comparison of one answer.
        reward_router_address: Unused.
        reward_model_tokenizer: Unused.

    Returns:
        `score`, the weighted sum, and the marks `acc` and `format`.
    """
    accuracy, in_format = _marks(solution_str, ground_truth, time_limit)
    score = accuracy_weight * accuracy + format_weight * in_format
    return {"score": score, "acc": accuracy, "format": in_format}


def score_answers(
    reward_inputs: Iterable[Any],
    *,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
    time_limit: float = 5.0,
) -> list[dict[str, float]]:
    """The rewards of a batch, as EasyR1 calls it, one after another.

    Args:
        reward_inputs: Mappings with `response` and `ground_truth`; one that has none scores 0.
        accuracy_weight: Reward of a right answer.
        format_weight: Reward of the format.
        time_limit: Seconds for the comparison of one answer.

    Returns:
        For each, `overall`, the weighted sum, and the marks `format` and `accuracy`.
    """
    scores = []
    for item in reward_inputs or ():
        fields = item if isinstance(item, Mapping) else {}
        marks = _marks(fields.get("response"), fields.get("ground_truth"), time_limit)
        overall = accuracy_weight * marks[0] + format_weight * marks[1]
        scores.append({"overall": overall, "format": marks[1], "accuracy": marks[0]})
    return scores


def has_format(response: str) -> bool:
    """Whether the response is one block of reasoning, then text with a boxed answer."""
    thinking, _, rest = response.strip().partition(CLOSE)
    return (
        thinking.startswith(OPEN)
        and response.count(OPEN) == response.count(CLOSE) == 1
        and bool(thinking[len(OPEN) :].strip())
        and bool((last_boxed(rest) or "").strip())
    )


def is_right(response: str, ground_truth: Any, time_limit: float) -> bool:
    """Whether the last boxed answer equals the ground truth; `time_limit` in seconds."""
    boxed = last_boxed(response.rpartition(CLOSE)[2])
    if boxed is None or len(boxed) > LONGEST:
        return False
    given, wanted = plain(boxed), _wanted(ground_truth)
    if not given or not wanted or len(wanted) > LONGEST:
        return False
    if given == wanted:
        return True
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(wanted):
        return int(given) == int(wanted)
    if _WORDS.fullmatch(wanted):
        # math-verify reads a bare word as a product of letters: "east" would equal "seat".
        return given.casefold() == wanted.casefold()
    return _judge().equal(wanted, given, time_limit)


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` with balanced braces holds, or None; linear in the length."""
    opened: list[tuple[bool, int]] = []
    start, end = -1, -1
    for token in _BRACE.finditer(text):
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append((token[0] != "{", token.end()))
        elif token[0] == "}" and opened:
            is_box, begin = opened.pop()
            if is_box and begin > start:
                start, end = begin, token.start()
    return None if start < 0 else text[start:end]


def plain(answer: str) -> str:
    r"""The answer without what only changes its looks: `$`, `\left`, thin spaces, `\dfrac`.

    A percent sign at the end goes too, as in the grading of the MATH data set: 50 is 50%.
    """
    text = _BIG_FRACTION.sub(r"\\frac", _NO_MEANING.sub(r"\1", answer))
    text = " ".join(text.split())
    for _ in range(2):  # as in "$50\\%$."
        for mark in ("." if not text.endswith("..") else "", "%", "\\"):
            text = text.removesuffix(mark).rstrip()
        text = _unwrapped(text)
    return text


def _unwrapped(text: str) -> str:
    for before, after in _WRAPS:
        inner = text[len(before) : -len(after)]
        if text == before + inner + after and after not in inner:
            text = inner.strip()
    return text


def _wanted(ground_truth: Any) -> str:
    text = _text(ground_truth)
    boxed = last_boxed(text)
    return plain(text if boxed is None else boxed)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    return "" if value is None else str(value)


def _marks(response: Any, ground_truth: Any, time_limit: float) -> tuple[float, float]:
    """Accuracy and format. Nothing raises: one odd answer must not end days of training."""
    try:
        text = _text(response)
        in_format = float(has_format(text))
    except Exception as error:
        _say(f"an answer could not be read and scores 0: {error!r}")
        return 0.0, 0.0
    try:
        return float(is_right(text, ground_truth, time_limit)), in_format
    except Exception as error:
        _say(f"an answer could not be judged and counts as wrong: {error!r}")
        return 0.0, in_format


def _say(line: str) -> None:
    sys.stderr.write(f"{REWARD_NAME} reward: {line}\n")


_JUDGES: dict[int, Judge] = {}


def _judge() -> Judge:
    """This process's judge: a fork must not share its parent's worker, nor a lock that is held."""
    return _JUDGES.setdefault(os.getpid(), Judge())


def _next_line(worker: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The worker's next line; empty if it ended, or wrote none in that time."""
    assert worker.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        return worker.stdout.readline() if selector.select(seconds) else b""


class Judge:
    """Compares answers in a worker process, which it starts, asks, kills and replaces."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._starts_left = MOST_FAILED_STARTS
        self._known: dict[tuple[str, str], bool] = {}

    def __reduce__(self) -> tuple[type[Judge], tuple[()]]:
        """A copy in another process begins anew; ray pickles this file's functions by value."""
        return Judge, ()

    def equal(self, wanted: str, given: str, time_limit: float) -> bool:
        """Whether the library finds them equal within `time_limit` seconds; one at a time."""
        with self._lock:
            verdict = self._known.get((wanted, given))
            if verdict is None and self._has_worker():
                question = json.dumps([wanted, given, time_limit]).encode() + b"\n"
                verdict = self._exchange(self._worker, question, time_limit) == b"true\n"
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[wanted, given] = verdict
            return bool(verdict)

    def close(self) -> None:
        """Ends the worker, if there is one; without this it ends when its parent does."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.communicate()  # closes its pipes and takes its exit code: no zombie

    def _exchange(self, worker: Any, question: bytes, seconds: float) -> bytes:
        reply = b""
        try:
            worker.stdin.write(question)
            reply = _next_line(worker, seconds)
        finally:
            # Also when an alarm of the framework interrupts: the next question would get this reply
            if not reply:
                self.close()
        return reply

    def _has_worker(self) -> bool:
        """Starts one where there is none; False if no worker can judge here."""
        if self._worker is not None and self._worker.poll() is None:
            return True
        self.close()
        while self._starts_left and not self._start():
            if not self._starts_left:
                _say(f"only equal texts are right: {sys.executable} {__file__} --check says why")
        return self._worker is not None

    def _start(self) -> bool:
        self._worker = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        ready = self._exchange(self._worker, b"", START_SECONDS)
        if ready == b"true\n":
            self._starts_left = MOST_FAILED_STARTS
            return True
        self.close()
        # "false": it did start, and found no library
        self._starts_left = 0 if ready else self._starts_left - 1
        return False


def find_judge() -> tuple[str, Equal] | None:
    """The library that compares answers, by name, or None if none can be imported."""
    for name, load in (("math_verify", _math_verify), ("mathruler", _mathruler)):
        try:
            return name, load()
        except ImportError:
            continue
    return None


def _math_verify() -> Equal:
    from math_verify import parse, verify

    # It warns that its own time limits are off: they need signals, and the worker has ours.
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def equal(wanted: str, given: str) -> bool:
        sides = [parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (wanted, given)]
        return bool(verify(*sides, timeout_seconds=None))

    return equal


def _mathruler() -> Equal:
    from mathruler.grader import grade_answer

    return lambda wanted, given: bool(grade_answer(given, wanted))


def _check() -> int:
    """One line: which library judges here, or what is missing."""
    judge = find_judge()
    if judge is None:
        line = f"{sys.executable} can import neither math_verify nor mathruler: install math-verify"
    elif not judge[1](r"\frac{1}{2}", "0.5") or judge[1]("3", "4"):
        line = f"{judge[0]} of {sys.executable} misjudges 1/2 and 0.5: install math-verify >= 0.8"
    else:
        sys.stdout.write(f"answers are judged by {judge[0]}\n")
        return 0
    sys.stdout.write(line + "\n")
    return 1


def _serve() -> int:
    """Answers questions, one json line each, until stdin closes."""
    with os.fdopen(os.dup(1), "w", buffering=1) as replies:
        os.dup2(2, 1)  # what a library prints must not look like a verdict
        _limit_memory()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        judge = find_judge()
        replies.write(json.dumps(judge is not None) + "\n")
        for line in sys.stdin if judge else ():
            wanted, given, seconds = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
            verdict = _verdict(judge[1], wanted, given) if judge else False
            signal.setitimer(signal.ITIMER_REAL, 0)
            replies.write(json.dumps(verdict) + "\n")
    return 0


def _verdict(equal: Equal, wanted: str, given: str) -> bool:
    try:
        return equal(wanted, given)
    except Exception:  # whatever the library cannot read is not the right answer
        return False


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = WORKER_BYTES if hard == resource.RLIM_INFINITY else min(WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main(arguments: list[str]) -> int:
    """Runs as a program: `--check` for people and backends, `--serve` for the worker."""
    # Python put this file's folder first: its neighbours would hide modules of the same name.
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [folder for folder in sys.path if str(Path(folder).resolve()) != here]
    return _serve() if arguments == ["--serve"] else _check()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
